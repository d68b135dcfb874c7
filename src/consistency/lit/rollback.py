"""What follows a divergence: back to the last good checkpoint with a lower learning rate, or the end."""

import sys
from pathlib import Path

from lightning import Trainer

from consistency.errors import Spoiled
from consistency.lit.callbacks.guard import Diverged, Guard, guard_of
from consistency.lit.module import Module


def rollbacks(trainer: Trainer) -> int:
    """How often a run has gone back."""
    guard = guard_of(trainer)
    return guard.count if guard else 0


def go_back(fault: Diverged, trainer: Trainer, module: Module, ckpt: Path | None) -> int:
    """Leave a run that has diverged, and say so.

    Args:
        fault: what happened.
        trainer: of that run.
        module: of that run.
        ckpt: where the next one begins; None for the beginning.

    Returns:
        The number of rollbacks, this one included.

    Raises:
        Spoiled: there have been as many as are allowed.
    """
    guard = guard_of(trainer)
    assert guard is not None  # nobody else raises Diverged
    if guard.count >= guard.rollbacks:
        raise Spoiled(last_words(fault, guard, module)) from fault
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        callback.teardown(trainer, module, "fit")  # which Lightning leaves out after an exception
    guard.count += 1
    if trainer.is_global_zero:
        print(news(fault, guard, ckpt), file=sys.stderr, flush=True)
    return guard.count


def go_on(trainer: Trainer, count: int) -> None:
    """Tell the next run how often it has gone back."""
    guard = guard_of(trainer)
    assert guard is not None
    guard.count = count


def news(fault: Diverged, guard: Guard, ckpt: Path | None) -> str:
    """What happened, and what is done about it."""
    which = f"rollback {guard.count} of {guard.rollbacks}"
    return f"{fault}: back to {ckpt or 'the beginning'}, learning rate times {guard.factor:g} ({which})"


def last_words(fault: Diverged, guard: Guard, module: Module) -> str:
    """What happened, and what the user can do about it."""
    lr = module.given[0]["lr"]
    return (
        f"{fault}, after {guard.count} rollbacks and with optimizer.lr={lr:g} times {guard.factor:g}: begin "
        "anew with a lower one, look at the data and at the weight of these σ, or allow more "
        "callbacks.guard.rollbacks; the checkpoints are from before"
    )
