"""What a run takes up from a checkpoint besides weights, held against what this run has there."""

from collections.abc import Mapping
from typing import Any

from lightning import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer

from consistency.teachers.counted import absent_average
from consistency.teachers.moments import check_moments

AVERAGES = "EMA"  # key of theirs among callbacks
MISFITS = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)


class MisfitError(ValueError):
    """Why a run cannot take up a checkpoint, to be read after the name of its file."""


def check_restorable(trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]) -> None:
    """Refuse averages, loops, callbacks and an optimizer that cannot be those of this run.

    Args:
        trainer: of the run.
        module: of the run, with a `model`.
        checkpoint: its content, which has the types that `teachers.contents` asks for.

    Raises:
        MisfitError: names the first part that does not fit.
    """
    fault = (
        absent_average(checkpoint, module.get_submodule("model"))
        or _loops(trainer, checkpoint)
        or _callbacks(trainer, checkpoint["callbacks"])
        or _optimizer(trainer, module, checkpoint)
    )
    if fault:
        raise MisfitError(f"is malformed: {fault}")


def other_kind(found: Any, fresh: Any, name: str) -> str | None:
    """The first part of `found` of another kind than in `fresh`; None and missing parts are left out."""
    if isinstance(fresh, dict) and isinstance(found, dict):
        both = [key for key in fresh if key in found]
        faults = (other_kind(found[key], fresh[key], f"{name}.{key}") for key in both)
        return next((fault for fault in faults if fault), None)
    if isinstance(fresh, Tensor) and isinstance(found, Tensor):
        return None if fresh.shape == found.shape else f"{name} has the shape {list(found.shape)}"
    if fresh is None or found is None or isinstance(found, allowed_types(fresh)):
        return None
    return f"{name} is of type {type(found).__name__}"


def allowed_types(value: Any) -> tuple[type, ...]:
    """Types that may stand in place of a value."""
    return (int, float) if isinstance(value, int | float) else (list, tuple) if isinstance(value, list) else (
        type(value),
    )  # fmt: skip


def _loops(trainer: Trainer, checkpoint: Mapping[str, Any]) -> str | None:
    """The counters of Lightning, of which one is the step."""
    loops, step = checkpoint.get("loops"), checkpoint["global_step"]
    if not isinstance(loops, dict) or not isinstance(loops.get("fit_loop"), dict):
        return "loops.fit_loop is absent"
    fresh = trainer.fit_loop.state_dict()
    lacks = absent_key(loops["fit_loop"], fresh, "loops.fit_loop")
    fault = lacks or other_kind(loops["fit_loop"], fresh, "loops.fit_loop")
    if fault:
        return fault
    progress = loops["fit_loop"]["epoch_loop.automatic_optimization.optim_progress"]["optimizer"]["step"]
    counted = progress["total"]["completed"]
    return None if counted == step else f"global_step={step}, and its loops have counted {counted}"


def absent_key(found: Mapping[str, Any], fresh: Mapping[str, Any], name: str) -> str | None:
    """The first key of `fresh`, at any depth, that `found` lacks; what loaders keep is theirs."""
    for key, value in fresh.items():
        if key not in found:
            return f"{name}.{key} is absent"
        if isinstance(value, dict) and isinstance(found[key], dict) and not key.endswith("state_dict"):
            inner = absent_key(found[key], value, f"{name}.{key}")
            if inner:
                return inner
    return None


def _callbacks(trainer: Trainer, kept: Mapping[str, Any]) -> str | None:
    """What callbacks take up; each does so twice, for only it knows what it needs."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        state = kept.get(callback.state_key)
        if state is None and callback.state_key == AVERAGES:
            return f"callbacks.{AVERAGES} is absent, and its averages would begin anew"
        if state is None:
            continue
        fault = other_kind(state, callback.state_dict(), f"callbacks.{callback.state_key}")
        if fault:
            return fault
        try:
            callback.load_state_dict(state)
        except MISFITS as error:
            return f"callbacks.{callback.state_key} cannot be taken up ({type(error).__name__}: {error})"
    return None


def _optimizer(trainer: Trainer, module: LightningModule, checkpoint: Mapping[str, Any]) -> str | None:
    """One optimizer, with groups that it can take up, and the state of every parameter."""
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
    needed_of_all = most > 0 and trainer.scaler is None  # a scaler of losses may have skipped every step
    fresh = module.configure_optimizers()  # with the values of this run
    assert isinstance(fresh, Optimizer)
    return check_moments(state["state"], fresh, most, needed_of_all)
