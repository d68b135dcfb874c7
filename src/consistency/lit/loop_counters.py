"""Lightning's loop counters in a checkpoint, rewritten to those of a run that was never stopped.

A checkpoint is written after an optimiser step and before the validation that may be due at that step.
Lightning would treat the validation as made; and it counts batches, whose number per step may have changed.
"""

from typing import Any

Counters = dict[str, Any]

BATCHES, VALIDATION = "epoch_loop.batch_progress", "epoch_loop.val_loop.batch_progress"
LOOP, EPOCH = "epoch_loop.state_dict", "epoch_progress"


def was_validated(loops: Counters) -> bool:
    """Whether a checkpoint was written after the validation of its step, according to its batch counters."""
    batches = loops["fit_loop"][BATCHES]["total"]
    return batches["completed"] == batches["ready"]


def rewrite_counters(loops: Counters, step: int, parts: int, due: bool, validated: bool, last: bool) -> None:
    """Set the counters of a checkpoint, in place.

    Args:
        loops: of the checkpoint.
        step: k, of the optimiser.
        parts: number of batches in an optimiser step.
        due: whether a validation follows step k.
        validated: whether that validation has been completed.
        last: whether neither a step nor a validation is left.
    """
    fit, batches = loops["fit_loop"], step * parts
    # At a step with a validation, Lightning resumes after the batch, and inside the validation if that has
    # started; at any other step it finishes the batch first, and counts it.
    fit[BATCHES] |= total_and_current(batches, batches, batches if due else batches - 1)
    started = int(due and not validated)
    fit[VALIDATION] |= {"total": counters(started, 0, 0), "current": counters(0, 0, 0)}
    fit[LOOP]["_batches_that_stepped"] = step if last else step - 1
    fit[EPOCH] |= total_and_current(1, int(last), int(last))


def total_and_current(started: int, processed: int, completed: int) -> Counters:
    """Counters of the run and of the epoch, which are equal: a run is one epoch without an end."""
    return {name: counters(started, processed, completed) for name in ("total", "current")}


def counters(started: int, processed: int, completed: int) -> Counters:
    """Lightning's counters of one kind of event."""
    return {"ready": started, "started": started, "processed": processed, "completed": completed}
