"""The log of a run at Weights & Biases (https://wandb.ai)."""

import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from PIL import Image

from consistency.errors import UserError, printable, strip_controls
from consistency.lit.loggers.base import logger_library
from consistency.lit.loggers.identity import RunId, Tracker, sweep_of
from consistency.process.rank import is_first

FOLDER = "wandb"  # made by the library in the run directory
STEP = "trainer/global_step"  # the x-axis of all curves
MODES = ("online", "offline", "disabled")


class Wandb(Tracker, WandbLogger):
    """Lightning's logger for Weights & Biases, which continues the run whose id is in the run directory.

    Args:
        save_dir: where the folder `wandb` is made.
        project: of the run.
        name: of the run; None for one that wandb generates.
        entity: user or team; None for the default.
        group: of runs; None for the directory of the sweep, if the run belongs to one.
        mode: online, offline or disabled; None for the variable WANDB_MODE, else online.

    Raises:
        UserError: the library is not installed, the mode is not known, or there is no login.
    """

    label = "wandb"

    def __init__(
        self,
        save_dir: str,
        project: str = "consistency",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        mode: str | None = None,
    ) -> None:
        if mode is not None and mode not in MODES:
            raise UserError(f"logger.wandb.mode={mode} must be one of: {', '.join(MODES)}")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # off unless the user sets it
        wandb = logger_library("wandb")
        self.online = (mode or os.environ.get("WANDB_MODE", "online")) in ("online", "run")
        if self.online and is_first():
            check_login(wandb)
        kept = RunId(Path(save_dir), FOLDER)
        group = group or sweep_of(kept.directory)
        super().__init__(name, save_dir, project=project, entity=entity, group=group, mode=mode)
        self.kept = kept

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, created or continued when it is first used."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image."""
        self.log_image(name, [image], step)

    def text(self, name: str, text: str, step: int) -> None:
        """Log a text as HTML, its line breaks and spaces kept."""
        lines = "\n".join(html.escape(printable(line)) for line in text.splitlines())
        self.experiment.log({name: logger_library("wandb").Html(f"<pre>{lines}</pre>"), STEP: step})

    def place(self) -> str | None:
        """The address of the run; offline, the folder of its files, which `wandb sync` uploads."""
        run = self._experiment
        if run is None or getattr(run, "disabled", False):
            return None
        return run.url if self.online else str(Path(run.dir).parent)

    def end_row(self, failed: bool) -> None:
        """Close the run."""
        if self._experiment is not None:
            run, self._experiment = self._experiment, None
            run.finish(exit_code=int(failed))

    def _begin(self) -> Any:
        wandb = logger_library("wandb")
        options: Mapping[str, Any] = {
            k: v for k, v in self._wandb_init.items() if k not in ("id", "anonymous")
        }
        resume = "allow" if self.online else None  # offline, files of all commands are uploaded to one id
        quiet = wandb.Settings(console="off", silent=True)
        try:
            run = wandb.init(**{**options, "id": self.kept.take(), "resume": resume, "settings": quiet})
        except wandb.errors.Error as error:
            raise UserError(wandb_refusal(error)) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run


def check_login(wandb: Any) -> None:
    """Log in with a stored key or one that is entered at the terminal.

    Raises:
        UserError: there is neither.
    """
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise UserError(wandb_refusal(error)) from error


def wandb_refusal(error: Exception) -> str:
    """The message of an error of wandb on one line, with a remedy."""
    return f"logger=wandb: {strip_controls(str(error))[:300]} Or give logger.wandb.mode=offline"
