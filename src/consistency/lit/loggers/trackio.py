"""The log of a run in Trackio (https://github.com/gradio-app/trackio)."""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from consistency.errors import UserError, strip_controls
from consistency.lit.loggers.base import logger_library
from consistency.lit.loggers.identity import RunId, Tracker, sweep_of

INSTALLATION = "pip install trackio && pip install -U 'pillow>=13'"  # its pillow<13 has known vulnerabilities
FOLDER = "trackio"  # in the directory of the run, for the name of the run in the project


class Trackio(Tracker):
    """A Trackio logger. Trackio stores runs by their names, outside the run directory.

    Args:
        save_dir: where the folder `trackio` with the name of the run is made.
        project: of the run.
        group: of runs; None for the directory of the sweep, if the run belongs to one.
        space_id: of a Space on Hugging Face; None to store runs on this machine.

    Raises:
        UserError: the library is not installed.
    """

    label = "trackio"

    def __init__(
        self,
        save_dir: str,
        project: str = "consistency",
        group: str | None = None,
        space_id: str | None = None,
    ) -> None:
        super().__init__()
        logger_library("trackio", INSTALLATION)
        self.project, self.space_id = project, space_id
        self.kept = RunId(Path(save_dir), FOLDER)
        self.group = group or sweep_of(self.kept.directory)
        self._experiment: Any = None

    @property
    def name(self) -> str:
        """The project."""
        return self.project

    @property
    def version(self) -> str | None:
        """The name of the run."""
        return self._experiment.name if self._experiment else self.kept.known()

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The run, created or continued when it is first used."""
        if self._experiment is None:
            self._experiment = self._begin()
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars."""
        self.experiment.log({name: float(value) for name, value in metrics.items()}, step=step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log hyperparameters as the config of the run."""
        self.experiment.config.update(params)

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image."""
        self.experiment.log({name: logger_library("trackio").Image(image)}, step=step)

    def text(self, name: str, text: str, step: int) -> None:
        """Log a text in Markdown."""
        self.experiment.log({name: logger_library("trackio").Markdown(text)}, step=step)

    def place(self) -> str | None:
        """The Space or the folder, with project and run."""
        if self._experiment is None:
            return None
        home = self.space_id or str(logger_library("trackio").TRACKIO_DIR)
        return f"{home} project {self.project} run {self.version}"

    def end_row(self, failed: bool) -> None:
        """Close the run; Trackio has no status."""
        if self._experiment is not None:
            self._experiment = None
            with redirect_stdout(io.StringIO()):
                logger_library("trackio").finish()

    def _begin(self) -> Any:
        options = {"group": self.group, "space_id": self.space_id, "resume": "allow", "embed": False}
        try:
            with redirect_stdout(io.StringIO()):  # it prints how to open the dashboard
                return logger_library("trackio").init(self.project, name=self.kept.take(), **options)
        except (ValueError, OSError) as error:
            raise UserError(
                f"logger=trackio: {strip_controls(str(error))[:300]}; check logger.trackio.*"
            ) from error
