"""Checks whether the loops, callbacks and optimiser in a checkpoint fit the run that resumes from it."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from consistency.teachers.counted import absent_average
from consistency.teachers.moments import check_moments

AVERAGES = "EMA"  # key of the averages among the states of callbacks
MISFITS = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


class MisfitError(ValueError):
    """A checkpoint does not fit the run. The message follows the name of the file."""


def check_restorable(trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse averages, loop counters, states of callbacks and an optimizer state that do not fit this run.

    Args:
        trainer: of the run.
        module: of the run, with a `model`.
        checkpoint: content of the file, whose types `teachers.contents` has checked.

    Raises:
        MisfitError: names the first part that does not fit.
    """
    fault = (
        absent_average(checkpoint, module.get_submodule("model"))
        or _find_loop_fault(trainer, checkpoint)
        or _find_callback_fault(trainer, checkpoint["callbacks"])
        or _find_optimizer_fault(trainer, module, checkpoint)
    )
    if fault:
        raise MisfitError(f"is malformed: {fault}")


def find_type_mismatch(found: Any, fresh: Any, name: str) -> str | None:
    """A message about the first value in `found` whose type or shape differs from that in `fresh`.

    Values of None, and keys that one of the two lacks, are not compared. None where nothing differs.
    """
    if isinstance(fresh, dict) and isinstance(found, dict):
        both = [key for key in fresh if key in found]
        faults = (find_type_mismatch(found[key], fresh[key], f"{name}.{key}") for key in both)
        return next((fault for fault in faults if fault), None)
    if isinstance(fresh, Tensor) and isinstance(found, Tensor):
        return None if fresh.shape == found.shape else f"{name} has the shape {list(found.shape)}"
    if fresh is None or found is None or isinstance(found, allowed_types(fresh)):
        return None
    return f"{name} is of type {type(found).__name__}"


def allowed_types(value: Any) -> tuple[type, ...]:
    """The types that a value of a checkpoint may have where this run has `value`."""
    return (int, float) if isinstance(value, int | float) else (list, tuple) if isinstance(value, list) else (
        type(value),
    )  # fmt: skip


def _find_loop_fault(trainer: Trainer, checkpoint: Mapping[str, Any]) -> str | None:
    """A message about Lightning's loop counters, one of which must equal the step; None where all fit."""
    loops, step = checkpoint.get("loops"), checkpoint["global_step"]
    if not isinstance(loops, dict) or not isinstance(loops.get("fit_loop"), dict):
        return "loops.fit_loop is absent"
    fresh = trainer.fit_loop.state_dict()
    lacks = find_absent_key(loops["fit_loop"], fresh, "loops.fit_loop")
    fault = lacks or find_type_mismatch(loops["fit_loop"], fresh, "loops.fit_loop")
    if fault:
        return fault
    progress = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    counted = progress["total"]["completed"]
    return None if counted == step else f"global_step={step}, and its loops have counted {counted}"


def find_absent_key(found: Mapping[str, Any], fresh: Mapping[str, Any], name: str) -> str | None:
    """A message about the first key of `fresh`, at any depth, that `found` lacks; None without any.

    The content of keys that end with `state_dict` belongs to data loaders, and is not compared.
    """
    for key, value in fresh.items():
        if key not in found:
            return f"{name}.{key} is absent"
        if isinstance(value, dict) and isinstance(found[key], dict) and not key.endswith("state_dict"):
            inner = find_absent_key(found[key], value, f"{name}.{key}")
            if inner:
                return inner
    return None


def _find_callback_fault(trainer: Trainer, kept: Mapping[str, Any]) -> str | None:
    """A message about the first state that its callback cannot load, by loading it; None where all fit.

    Lightning loads the states again afterwards.
    """
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = kept.get(callback.state_key)
        if state is None and callback.state_key == AVERAGES:
            return f"callbacks.{AVERAGES} is absent, and its averages would begin anew"
        if state is None:
            continue
        fault = find_type_mismatch(state, callback.state_dict(), f"callbacks.{callback.state_key}")
        if fault:
            return fault
        try:
            callback.load_state_dict(state)
        except MISFITS as error:
            return f"callbacks.{callback.state_key} cannot be taken up ({type(error).__name__}: {error})"
    return None


def _find_optimizer_fault(
    trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]
) -> str | None:
    """A message where there is not one optimizer, or its groups or the states of parameters do not fit."""
    kept = checkpoint.get("optimizer_states", [])
    if len(kept) != 1:
        return f"optimizer_states are of {len(kept)} optimizers"
    (state,) = kept
    optimizer = module.configure_optimizers()
    assert isinstance(optimizer, Optimizer)
    needed = {*optimizer.param_groups[0]}
    try:
        optimizer.load_state_dict({"state": {}, "param_groups": state["param_groups"]})
    except MISFITS as error:
        return f"optimizer_states.param_groups do not fit ({error})"
    lacks = sorted(needed - {*optimizer.param_groups[0]})
    if lacks:
        return f"optimizer_states.param_groups lack {lacks[0]}"
    most = checkpoint["global_step"]
    needed_of_all = most > 0 and trainer.scaler is None  # a loss scaler may have skipped every step
    fresh = module.configure_optimizers()  # with the values of this run
    assert isinstance(fresh, Optimizer)
    return check_moments(state["state"], fresh, most, needed_of_all)
