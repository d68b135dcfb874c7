"""Lightning's counters in a checkpoint, rewritten to those of a run that was never stopped.

A checkpoint is written after the optimiser step and before the validation that may be due at it. Lightning
would take that validation for done, and counts batches, whose number per step may have changed.
"""

from typing import Any

Counters = dict[str, Any]

BATCHES, VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
LOOP, EPOCH = "epoch_loop.state_dict", "epoch_progress"


def was_validated(loops: Counters) -> bool:
    """Whether a checkpoint was written after the validation of its step, by its counters of batches."""
    batches = loops["fit_loop"][BATCHES]["total"]
    return batches["completed"] == batches["ready"]


def rewrite(loops: Counters, step: int, parts: int, due: bool, validated: bool, last: bool) -> None:
    """Set the counters of a checkpoint, in place.

    Args:
        loops: of the checkpoint.
        step: k, of the optimiser.
        parts: batches of an optimiser step.
        due: whether a validation follows step k.
        validated: whether it has been completed.
        last: whether nothing is left to do, neither steps nor a validation.
    """
    fit, batches = loops["fit_loop"], step * parts
    # At a step with a validation, Lightning goes on behind the batch, and into the validation if that was
    # begun; at any other step it finishes the batch first, and counts it.
    fit[BATCHES] |= both(batches, batches, batches if due else batches - 1)
    begun = int(due and not validated)
    fit[VALIDATION] |= {"total": tracked(begun, 0, 0), "current": tracked(0, 0, 0)}
    fit[LOOP]["_batches_that_stepped"] = step if last else step - 1
    fit[EPOCH] |= both(1, int(last), int(last))


def both(started: int, processed: int, completed: int) -> Counters:
    """Of the run and of the epoch, which is one and has no end."""
    return {name: tracked(started, processed, completed) for name in ("total", "current")}


def tracked(started: int, processed: int, completed: int) -> Counters:
    """What Lightning counts of a kind of event."""
    return {"ready": started, "started": started, "processed": processed, "completed": completed}
