"""When checkpoints are written, and what of the config they keep: a run resumes exactly from any of them."""

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
from consistency.lit.loop_counters import rewrite_counters, was_validated
from consistency.metrics.choice import pick
from consistency.process.stops import Interrupted, Stopped


class Checkpoints(Checkpoint):
    """Writes the checkpoints of a run.

    - `last.ckpt`: every `every` steps, before every validation, at the end, and when the run is stopped;
    - `good.ckpt`: the newest `last.ckpt` whose validation passed the `Guard`;
    - `best.ckpt`: the state with the lowest value of `monitor`;
    - `step=N.ckpt`: every `keep_every` steps, never replaced.

    Each holds raw weights, averages, optimiser and the counters of the loops. A run that has diverged is not
    saved: it rolls back to `last.ckpt`, and one whose samples have collapsed to `good.ckpt`. A run that
    resumes at the step of a validation validates first, unless the checkpoint was written after it.

    Args:
        directory: for the files.
        every: steps between two writes of last.ckpt.
        keep_every: steps between two numbered checkpoints; 0 for none.
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
        self.saved: int | None = None  # step of last.ckpt; None before it is written
        self.validated: int | None = None  # step of the last validation that was completed
        self.owed: int | None = None  # last step of a resumed run, if its validation is still missing
        self.step = 0  # of the last batch

    @property
    def last(self) -> Path:
        """Path of last.ckpt."""
        return self.directory / LAST.name

    @property
    def lowest(self) -> Path:
        """Path of best.ckpt."""
        return self.directory / BEST

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set Lightning's counters so that the run resumes after this step, with its missing validation."""
        k, kept = checkpoint["global_step"], checkpoint["callbacks"].get(self.state_key, {})
        if k == 0:  # written after a rollback to the beginning: Lightning starts with counters of zero
            del checkpoint["loops"]
            return
        loops = checkpoint["loops"]
        validated = kept["validated"] == k if "validated" in kept else was_validated(loops)
        due, end = is_due(trainer, k), k >= trainer.max_steps
        rewrite_counters(
            loops, k, accumulated_batches(trainer), due, validated, last=end and not (due and not validated)
        )
        self.owed = k if end and due and not validated else None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Allow one step more than there are, so that Lightning makes the missing validation of the last."""
        if self.owed is not None:
            trainer.fit_loop.epoch_loop.max_steps = self.owed + 1

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that a resumed run has this step on disk already."""
        self.saved = self.step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Save when the step is due, once per optimiser step."""
        k = trainer.global_step
        if k == self.step:
            return
        self.step = k
        if self.keep_every and k % self.keep_every == 0:
            trainer.save_checkpoint(self.directory / f"step={k:08d}.ckpt")
        due = k // self.every > (self.saved or 0) // self.every or is_due(trainer, k)
        if k >= trainer.max_steps or (due and no_spike(trainer)):
            self.save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write good.ckpt and best.ckpt; the raw weights are in place again."""
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
        """Save the last step, unless that has been done."""
        if self.saved != trainer.global_step or not self.last.exists():
            self.save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save the steps since the last checkpoint, unless the run has diverged.

        Nothing is saved either after a second signal, which may interrupt a step halfway, or where the disk
        cannot be written.
        """
        if self.saved not in (None, trainer.global_step) and may_be_saved(exception):
            with nullcontext() if isinstance(exception, Interrupted) else dispensable():
                self.save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The lowest value so far, the name of its metric, and the step of the last validation."""
        return {"best": self.best, "monitor": self.monitor, "validated": self.validated}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load them. A value of another metric is ignored, and so is one that is not finite.

        After a rollback the lower of both values is kept: best.ckpt is not rolled back.
        """
        same = state_dict.get("monitor", self.monitor) == self.monitor
        values = (self.best, state_dict["best"] if same else None)
        self.best = min((v for v in values if v is not None and math.isfinite(v)), default=None)
        self.validated = state_dict.get("validated")

    def save_last(self, trainer: Trainer) -> None:
        """Write last.ckpt."""
        self.saved = trainer.global_step
        trainer.save_checkpoint(self.last)

    def _keep_good(self, trainer: Trainer) -> None:
        """Copy last.ckpt to good.ckpt, if the samples of this validation passed the guard."""
        guard = guard_of(trainer)
        passed = guard is not None and guard.passed == trainer.global_step
        if passed and trainer.is_global_zero and self.last.is_file():
            with dispensable():
                keep_as(self.last, self.directory / GOOD)


def may_be_saved(exception: BaseException) -> bool:
    """Whether, after this exception, weights and counters agree and the disk can be written."""
    cut_short = isinstance(exception, Stopped | KeyboardInterrupt) and not isinstance(exception, Interrupted)
    return not (cut_short or isinstance(exception, Diverged | Unwritable))


def no_spike(trainer: Trainer) -> bool:
    """Whether no loss of the last step was so high that a spike may have begun."""
    guard = guard_of(trainer)
    return guard is None or guard.calm


def null_missing(node: Any) -> Any:
    """Plain data with None for mandatory values of OmegaConf that were never set, such as `teacher.path`."""
    if isinstance(node, dict):
        return {key: null_missing(child) for key, child in node.items()}
    if isinstance(node, list):
        return [null_missing(child) for child in node]
    return None if node == "???" else node


def accumulated_batches(trainer: Trainer) -> int:
    """Number of batches in an optimiser step, on each process."""
    return trainer.accumulate_grad_batches


def is_due(trainer: Trainer, k: int) -> bool:
    """Whether a validation follows optimiser step k."""
    return (
        bool(trainer.enable_validation)
        and k > 0
        and k * accumulated_batches(trainer) % trainer.val_check_interval == 0
    )


class KeepConfig(Callback):
    """Adds the resolved config, the name of the experiment and the identity of the data to every checkpoint.

    All are plain data, so that a checkpoint can be opened by itself. The config is also written to
    `config.yaml` in the run directory and to the logs.

    Args:
        config: of plain containers, strings and numbers.
        experiment: its name.
        data: identity of the data, which a resumed run compares.
    """

    def __init__(
        self, config: dict[str, Any], experiment: str | None = None, data: dict[str, Any] | None = None
    ) -> None:
        self.config = {key: null_missing(node) for key, node in config.items()}
        self.experiment, self.data = experiment, data
        self.logged: dict[str, Any] | None = None  # the config in the log of the checkpoint

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write config.yaml, and log the config if it has changed: all checks of the run have passed now."""
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
        """Note the config that is in the log already."""
        self.logged = checkpoint["config"]
