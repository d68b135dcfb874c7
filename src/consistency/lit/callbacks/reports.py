"""Reports the optimised metric of a run to its sweep, while it trains."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lightning import Callback, Trainer

from consistency.errors import UserError, nearest
from consistency.lit.module import Module
from consistency.metrics.choice import pick
from consistency.process.lifeline import is_sweep_run, send_report


class Reports(Callback):
    """Sends the optimised metric to the sweep after each validation during training.

    The last report is kept in checkpoints and sent again when the run is resumed, in case the sweep was
    killed before it received it. This callback must therefore stand before the one that saves.

    Args:
        metric: its name, or the part after the last /; None for a sweep that optimises nothing.
    """

    def __init__(self, metric: str | None) -> None:
        self.metric = metric
        self.last: dict[str, Any] = {}

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Send the last report again."""
        if self.last and is_sweep_run() and trainer.is_global_zero:
            self._send(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Send the metric; None in place of a number that is not finite."""
        if not (is_sweep_run() and self.metric and trainer.is_global_zero and trainer.state.fn == "fit"):
            return
        value = pick(self.metric, trainer.callback_metrics)
        finite = value is not None and math.isfinite(value)
        self.last = {"step": trainer.global_step, "value": value if finite else None}
        self._send(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The last report, and the name of its metric."""
        return {**self.last, "metric": self.metric} if self.last else {}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load it, if the metric is the same."""
        if state_dict.get("metric") == self.metric:
            self.last = {"step": state_dict["step"], "value": state_dict["value"]}

    def _send(self, trainer: Trainer) -> None:
        send_report(**self.last, last=self.last["step"] >= trainer.max_steps)


def check_metric(name: str | None, module: Module, callbacks: Sequence[Callback]) -> None:
    """Refuse, before training, an `optimized_metric` that no validation of this run computes.

    Args:
        name: of the metric, or the part after the last /; None for a run that optimises nothing.
        module: its samplers give metrics their names.
        callbacks: their attributes `measures` are names of further metrics.
    """
    if not module.samplers:
        raise UserError("samplers: all of them are null, and nothing could be validated: keep at least one")
    known = {*module.samplers, *(metric for c in callbacks for metric in getattr(c, "measures", ()))}
    if name is not None and name.rpartition("/")[2] not in known:
        raise UserError(f"optimized_metric={name} is not measured: {nearest(name, known)}")
