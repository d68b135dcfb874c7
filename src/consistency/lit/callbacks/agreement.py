"""The processes of a run train the same thing, from the same step, or not at all."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from consistency.lit.peers import Peers, check_same_facts, is_lost, leave_unmet
from consistency.process.rank import is_first


class Agreement(Callback):
    """Compares directory, config, program and step of all processes before the first of them is made.

    While they train, each looks after the others.

    Args:
        config: of plain containers.
        directory: of the run.
        commit: () -> that of the program; called where there are several processes.
    """

    def __init__(self, config: dict[str, Any], directory: Path, commit: Callable[[], str | None]) -> None:
        self.config, self.directory, self.commit = config, directory, commit
        self.peers: Peers | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compare all but the step, and begin to look after the others."""
        if trainer.world_size == 1:
            return
        if stage == "fit":
            place = {"run_dir": self.directory.resolve(), "commit": self.commit()}
            check_same_facts({**place, **flatten_config(self.config)})
        self.peers = Peers(self.directory)
        self.peers.watch()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the step, which a checkpoint has brought by now."""
        if trainer.world_size > 1:
            check_same_facts({"the step to go on from": trainer.global_step})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave if another process has died: what follows would wait for it."""
        if self.peers is None:
            if is_lost(exception) and not is_first():
                leave_unmet()
            return
        if is_lost(exception):
            self.peers.end()
        self.peers.close()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look no longer, on any process, before one of them leaves."""
        if self.peers is not None:
            self.peers.close()
            self.peers = None


def flatten_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """The values of a config by their full keys."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        k: v
        for key, node in config.items()
        for k, v in flatten_config(node, f"{prefix}.{key}".lstrip(".")).items()
    }
