"""Checkpoints from which a run continues exactly, whenever it was stopped."""

import math
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from consistency.errors import at_least
from consistency.files.atomic import Unwritable, dispensable, keep_as, write_text
from consistency.files.checkpoints import BEST, GOOD, LAST
from consistency.lit.divergence import Diverged, guard_of
from consistency.lit.loggers.base import log_code
from consistency.lit.restart import rewrite, was_validated
from consistency.metrics.choice import pick
from consistency.process.stops import Interrupted, Stopped


class Checkpoints(Checkpoint):
    """`last.ckpt` every so many steps, before every validation, at the end, and when stopped; `good.ckpt`,
    the newest `last.ckpt` that led to a validation whose samples were judged good; `best.ckpt`; and numbered
    ones to keep.

    Each holds raw weights, averages, optimiser and loops. A run that has diverged is not saved: it goes back
    to `last.ckpt`, and one that has collapsed to `good.ckpt`. A run that goes on from the step of a
    validation makes that first, unless it was completed when the checkpoint was written.

    Args:
        directory: where they go.
        every: steps between two writes of last.ckpt.
        keep_every: steps between two numbered checkpoints that stay; 0 for none.
        monitor: metric whose lowest value makes best.ckpt; None for no such file.
    """

    def __init__(
        self,
        directory: str,
        every: int = 500,
        keep_every: int = 0,
        monitor: str | None = None,
    ) -> None:
        at_least("callbacks.checkpoints", every=every)
        at_least("callbacks.checkpoints", 0, keep_every=keep_every)
        self.directory, self.monitor = Path(directory), monitor
        self.every, self.keep_every = every, keep_every
        self.best: float | None = None
        self.saved: int | None = None  # the step on disk; None before the first
        self.validated: int | None = None  # the step of the last validation that was completed
        self.owed: int | None = None  # the last step of a run, whose validation has yet to be made
        self.seen = 0  # the step of the last batch

    @property
    def last(self) -> Path:
        """The newest state."""
        return self.directory / LAST.name

    @property
    def lowest(self) -> Path:
        """The state with the lowest value of the metric."""
        return self.directory / BEST

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the counters so that the run goes on behind this step, with the validation that it owes."""
        k, kept = checkpoint["global_step"], checkpoint["callbacks"].get(self.state_key, {})
        if k == 0:  # written after a rollback to the beginning: nothing has been counted
            del checkpoint["loops"]
            return
        loops = checkpoint["loops"]
        validated = kept["validated"] == k if "validated" in kept else was_validated(loops)
        due, end = is_due(trainer, k), k >= trainer.max_steps
        rewrite(
            loops, k, accumulated_batches(trainer), due, validated, last=end and not (due and not validated)
        )
        self.owed = k if end and due and not validated else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Have Lightning begin, although all steps are made, if the validation of the last one is owed."""
        if self.owed is not None:
            trainer.fit_loop.epoch_loop.max_steps = self.owed + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A resumed run has this step on disk already."""
        self.saved = self.seen = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when the step is due, once per optimiser step."""
        k = trainer.global_step
        if k == self.seen:
            return
        self.seen = k
        if self.keep_every and k % self.keep_every == 0:
            trainer.save_checkpoint(self.directory / f"step={k:08d}.ckpt")
        due = k // self.every > (self.saved or 0) // self.every or is_due(trainer, k)
        if k >= trainer.max_steps or (due and calm(trainer)):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep what was judged good, and save the best: raw weights and averages are where they belong."""
        if trainer.state.fn != "fit":
            return
        self.validated = trainer.global_step
        if self.owed is not None:
            trainer.fit_loop.epoch_loop.max_steps, self.owed = self.owed, None
        self._keep_good(trainer)
        value = pick(self.monitor, trainer.callback_metrics)
        if value is None or not math.isfinite(value):  # NaN would stay the best for ever
            return
        if self.best is None or value < self.best:
            self.best = value
            trainer.save_checkpoint(self.lowest)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the end."""
        if self.saved != trainer.global_step or not self.last.exists():
            self.save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save what there is, if a step has been made since the last time; but nothing that has diverged.

        Nor what a second signal cut short in the middle of a step, nor where nothing can be written.
        """
        if self.saved not in (None, trainer.global_step) and may_be_saved(exception):
            with nullcontext() if isinstance(exception, Interrupted) else dispensable():
                self.save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, of which metric, and the step of the last validation."""
        return {"best": self.best, "monitor": self.monitor, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up; a value of another metric says nothing, and nor does one that is not finite.

        A run that went back keeps the lower value: it is that of best.ckpt.
        """
        same = state_dict.get("monitor", self.monitor) == self.monitor
        values = (self.best, state_dict["best"] if same else None)
        self.best = min((v for v in values if v is not None and math.isfinite(v)), default=None)
        self.validated = state_dict.get("validated")

    def save_last(self, trainer: Trainer) -> None:
        """Save the state as it is now."""
        self.saved = trainer.global_step
        trainer.save_checkpoint(self.last)

    def _keep_good(self, trainer: Trainer) -> None:
        """Keep last.ckpt, if the samples that it led to were judged good, from being replaced."""
        guard = guard_of(trainer)
        passed = guard is not None and guard.passed == trainer.global_step
        if passed and trainer.is_global_zero and self.last.is_file():
            with dispensable():
                keep_as(self.last, self.directory / GOOD)


def may_be_saved(exception: BaseException) -> bool:
    """Whether weights and counters agree when a run ends so, and there may be room for them."""
    cut_short = isinstance(exception, Stopped | KeyboardInterrupt) and not isinstance(exception, Interrupted)
    return not (cut_short or isinstance(exception, Diverged | Unwritable))


def calm(trainer: Trainer) -> bool:
    """Whether no loss of the last step was so high that it may be the first of a spike."""
    guard = guard_of(trainer)
    return guard is None or guard.calm


def given(node: Any) -> Any:
    """Plain data with null for values that nobody gave and nothing needed, such as `teacher.path`."""
    if isinstance(node, dict):
        return {key: given(child) for key, child in node.items()}
    if isinstance(node, list):
        return [given(child) for child in node]
    return None if node == "???" else node


def accumulated_batches(trainer: Trainer) -> int:
    """Batches of an optimiser step."""
    return trainer.accumulate_grad_batches


def is_due(trainer: Trainer, k: int) -> bool:
    """Whether a validation follows optimiser step k."""
    return (
        bool(trainer.enable_validation)
        and k > 0
        and k * accumulated_batches(trainer) % trainer.val_check_interval == 0
    )


class KeepConfig(Callback):
    """Keeps the resolved config and what the data are: in every checkpoint, as plain data, so that it needs
    nothing else; the config as `config.yaml` in the run directory, and in the logs as well.

    Args:
        config: of plain containers, strings and numbers.
        experiment: that it is a variation of.
        data: what the data are, for a run that goes on.
    """

    def __init__(
        self, config: dict[str, Any], experiment: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        self.config = {key: given(node) for key, node in config.items()}
        self.experiment, self.data = experiment, data
        self.logged: dict[str, Any] | None = None  # the config in the log of the checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it down, now that nothing can be refused any more."""
        if trainer.is_global_zero:
            text = OmegaConf.to_yaml(OmegaConf.create(self.config))
            write_text(Path(trainer.default_root_dir) / "config.yaml", text)
            if self._is_new():
                log_code(trainer, "config", text, "yaml")

    def _is_new(self) -> bool:
        def rest(config: dict[str, Any]) -> dict[str, Any]:
            return {name: value for name, value in config.items() if name != "ckpt_path"}

        return self.logged is None or rest(self.config) != rest(self.logged)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add all three."""
        checkpoint["config"], checkpoint["experiment"] = self.config, self.experiment
        if self.data is not None:
            checkpoint["data"] = self.data

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """A config that has not changed is in the log already."""
        self.logged = checkpoint["config"]
