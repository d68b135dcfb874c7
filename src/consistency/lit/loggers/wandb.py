"""The log of a run at Weights & Biases."""

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

FOLDER = "wandb"  # which the library makes in its directory
STEP = "trainer/global_step"  # the x-axis of all curves
MODES = ("online", "offline", "disabled")


class Wandb(Tracker, WandbLogger):
    """Lightning's logger of Weights & Biases, continued under the id that the run has in its directory.

    Args:
        save_dir: where the folder `wandb` is made.
        project: that the run belongs to.
        name: of the run; None for one that wandb makes up.
        entity: user or team; None for the default.
        group: of runs; None for the directory of the sweep, if the run is of one.
        mode: online, offline or disabled; None for the variable WANDB_MODE, else online.

    Raises:
        UserError: the library is not there, the mode is none, or nobody is logged in.
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
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # nothing is sent that nobody wants sent
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
        """The run, which begins or goes on when it is first needed."""
        if self._experiment is None:
            self._experiment = self._begun()
        return self._experiment

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image."""
        self.log_image(name, [image], step)

    def text(self, name: str, text: str, step: int) -> None:
        """Log a text as HTML, its line breaks and spaces kept."""
        lines = "\n".join(html.escape(printable(line)) for line in text.splitlines())
        self.experiment.log({name: logger_library("wandb").Html(f"<pre>{lines}</pre>"), STEP: step})

    def place(self) -> str | None:
        """The address of the run, or the folder of its files that `wandb sync` uploads."""
        run = self._experiment
        if run is None or getattr(run, "disabled", False):
            return None
        return run.url if self.online else str(Path(run.dir).parent)

    def end_row(self, failed: bool) -> None:
        """Close the run."""
        if self._experiment is not None:
            run, self._experiment = self._experiment, None
            run.finish(exit_code=int(failed))

    def _begun(self) -> Any:
        wandb = logger_library("wandb")
        options: Mapping[str, Any] = {
            k: v for k, v in self._wandb_init.items() if k not in ("id", "anonymous")
        }
        resume = "allow" if self.online else None  # offline, the files of all parts are uploaded to one id
        quiet = wandb.Settings(console="off", silent=True)
        try:
            run = wandb.init(**{**options, "id": self.kept.take(), "resume": resume, "settings": quiet})
        except wandb.errors.Error as error:
            raise UserError(wandb_refusal(error)) from error
        run.define_metric(STEP)
        run.define_metric("*", step_metric=STEP, step_sync=True)
        return run


def check_login(wandb: Any) -> None:
    """Log in with the key that is stored or, at a terminal, typed in.

    Raises:
        UserError: there is neither a key nor a terminal.
    """
    try:
        wandb.login()
    except wandb.errors.Error as error:
        raise UserError(wandb_refusal(error)) from error


def wandb_refusal(error: Exception) -> str:
    """What wandb has refused, on one line, and what to do."""
    return f"logger=wandb: {strip_controls(str(error))[:300]} Or give logger.wandb.mode=offline"
