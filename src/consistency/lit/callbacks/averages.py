"""Exponential moving averages of the weights, for evaluation; they have no influence on training."""

from collections.abc import Mapping
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor

from consistency.errors import UserError, nearest
from consistency.files.paths import check_names
from consistency.lit.module import Module
from consistency.objectives.target import lerp
from consistency.schedule.decay import Decay


class EMA(Callback):
    """Keeps several exponential moving averages of the model's parameters.

    The module's `state_dict` always holds the raw weights; the state of this callback holds the averages. One
    of them replaces the raw weights from the start of a validation to its end, or to an exception.

    Args:
        decays: name -> decay as a function of the step.
        evaluate: name of the average that validations use.
    """

    def __init__(self, decays: Mapping[str, Decay], evaluate: str) -> None:
        check_names("callbacks.ema.decays", decays)
        if evaluate not in decays:
            raise UserError(
                f"callbacks.ema.evaluate={evaluate} is not an average: {nearest(evaluate, decays)}"
            )
        self.decays, self.evaluate = dict(decays), evaluate
        self.averages: dict[str, dict[str, Tensor]] = {}
        self.swapped, self.updates = False, 0

    @property
    def state_key(self) -> str:
        """Key of the averages among the states of callbacks in a checkpoint."""
        return "EMA"

    def on_fit_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Start from the current weights, unless averages were loaded from a checkpoint."""
        weights = dict(pl_module.model.named_parameters())
        for name in self.decays:
            kept = self.averages.get(name, weights)
            self.averages[name] = {n: kept[n].detach().to(w, copy=True) for n, w in weights.items()}

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Continue the count of updates at the step of the checkpoint, which is known only now."""
        self.updates = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Update the averages, once per optimiser step, even where a step accumulates several batches."""
        if trainer.global_step == self.updates:
            return
        for name, decay in self.decays.items():
            lerp(self.averages[name].values(), pl_module.model.parameters(), 1 - decay(self.updates))
        self.updates = trainer.global_step

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Replace the raw weights by the average."""
        if self.averages and not self.swapped:
            self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Restore the raw weights."""
        if self.swapped:
            self._swap(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Restore the raw weights, before another callback saves them."""
        self.on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """The averages, each a dict of tensors, by name."""
        return {"averages": self.averages, "evaluate": self.evaluate}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the averages of a checkpoint.

        Raises:
            ValueError: the checkpoint lacks one; it would start anew from the raw weights.
        """
        kept = state_dict["averages"]
        if lacks := sorted(self.decays.keys() - kept.keys()):
            raise ValueError(f"it has no average {lacks[0]}")
        self.averages = {name: kept[name] for name in self.decays}

    @torch.no_grad()
    def _swap(self, module: Module) -> None:
        for name, weight in module.model.named_parameters():
            average = self.averages[self.evaluate][name]
            kept = weight.detach().clone()
            weight.copy_(average)
            average.copy_(kept)
        self.swapped = not self.swapped
