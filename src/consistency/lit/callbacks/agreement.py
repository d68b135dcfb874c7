"""Checks, in distributed training, that all processes train the same config from the same step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.peers import Peers, check_same_facts, exit_after_loss, is_lost
from consistency.process.rank import is_first


class Agreement(Callback):
    """Compares directory, config, commit and step of all processes before the first training step.

    During training each process watches whether the others are alive, see `consistency.lit.peers`.

    Args:
        config: of plain containers.
        directory: of the run.
        commit: () -> hash of the checked-out commit; called only where there are several processes.
    """

    def __init__(self, config: dict[str, Any], directory: Path, commit: Callable[[], str | None]) -> None:
        self.config, self.directory, self.commit = config, directory, commit
        self.peers: Peers | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare all but the step, and begin to watch the other processes."""
        if trainer.world_size == 1:
            return
        if stage == "fit":
            place = {"run_dir": self.directory.resolve(), "commit": self.commit()}
            check_same_facts({**place, **flatten_config(self.config)})
        self.peers = Peers(self.directory)
        self.peers.watch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the step, which is known now that a checkpoint has been loaded."""
        if trainer.world_size > 1:
            check_same_facts({"the step to go on from": trainer.global_step})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End this process if another one has died: any collective operation would wait for it."""
        if self.peers is None:
            if is_lost(exception) and not is_first():
                exit_after_loss()
            return
        if is_lost(exception):
            self.peers.end()
        self.peers.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop watching, before the first process ends."""
        if self.peers is not None:
            self.peers.close()
            self.peers = None


def flatten_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full keys, such as `optimizer.lr`."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        k: v
        for key, node in config.items()
        for k, v in flatten_config(node, f"{prefix}.{key}".lstrip(".")).items()
    }
