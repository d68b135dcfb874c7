"""Checkpoints from which a run continues exactly, whenever it was stopped."""

import shutil
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import Checkpoint
from omegaconf import OmegaConf

from consistency.errors import at_least
from consistency.lit.boards import boards
from consistency.lit.callbacks.guard import Collapsed, Diverged, guard_of
from consistency.lit.module import Module
from consistency.metrics.choice import pick


class Checkpoints(Checkpoint):
    """`last.ckpt` every so many steps, at the end, and when stopped; `best.ckpt`; and numbered ones to keep.

    Each holds raw weights, averages, optimiser and loops. A run that has diverged is not saved: it goes back
    to `last.ckpt`.

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

    @property
    def last(self) -> Path:
        """The newest state."""
        return self.directory / "last.ckpt"

    @property
    def lowest(self) -> Path:
        """The state with the lowest value of the metric."""
        return self.directory / "best.ckpt"

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """A resumed run has this step on disk already."""
        self.saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Module, *_: Any) -> None:
        """Save when the step is due, once per optimiser step."""
        k = trainer.global_step
        if k == self.saved:
            return
        if self.keep_every and k % self.keep_every == 0:
            trainer.save_checkpoint(self.directory / f"step={k:08d}.ckpt")
        if k // self.every > (self.saved or 0) // self.every and calm(trainer):
            self._save_last(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Save the best; the raw weights are back by now, the averages where they belong."""
        value = pick(self.monitor, trainer.callback_metrics) if trainer.state.fn == "fit" else None
        if value is not None and (self.best is None or value < self.best):
            self.best = value
            trainer.save_checkpoint(self.lowest)

    def on_train_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Save the end."""
        if self.saved != trainer.global_step or not self.last.exists():
            self._save_last(trainer)

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """Save what there is, if a step has been made since the last time; but nothing that has diverged."""
        if isinstance(exception, Collapsed):
            self._return_to_best(trainer)
        elif not isinstance(exception, Diverged) and self.saved not in (None, trainer.global_step):
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the best value so far."""
        self.best = state_dict["best"]

    def _save_last(self, trainer: Trainer) -> None:
        self.saved = trainer.global_step
        trainer.save_checkpoint(self.last)

    def _return_to_best(self, trainer: Trainer) -> None:
        """The newest state may have collapsed long ago; the best has been looked at."""
        if trainer.is_global_zero and self.lowest.is_file():
            copy = self.directory / ".last.ckpt.tmp"
            shutil.copyfile(self.lowest, copy)
            copy.replace(self.last)
        trainer.strategy.barrier()


def calm(trainer: Trainer) -> bool:
    """Whether no loss of the last step was so high that it may be the first of a spike."""
    guard = guard_of(trainer)
    return guard is None or guard.spikes.calm


class KeepConfig(Callback):
    """Keeps the resolved config: in every checkpoint, as plain data, so that a checkpoint needs nothing else;
    as `config.yaml` in the run directory; and in TensorBoard.

    Args:
        config: of plain containers, strings and numbers.
        experiment: that it is a variation of.
    """

    def __init__(self, config: dict[str, Any], experiment: str | None = None) -> None:
        self.config, self.experiment = config, experiment

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Write it down, now that nothing can be refused any more."""
        if trainer.is_global_zero:
            text = OmegaConf.to_yaml(OmegaConf.create(self.config))
            (Path(trainer.default_root_dir) / "config.yaml").write_text(text)
            for board in boards(trainer):
                board.experiment.add_text("config", f"```yaml\n{text}\n```")

    def on_save_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Add it."""
        checkpoint["config"], checkpoint["experiment"] = self.config, self.experiment
