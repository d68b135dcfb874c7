"""The log of a run as files: metrics.csv with a row for each step, and pictures and texts."""

import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import OmegaConf
from PIL import Image

from consistency.files.atomic import Unwritable, write_file, write_text
from consistency.files.owned import check_inside, check_own
from consistency.files.steps import StepTable
from consistency.lit.loggers.base import Positions, RunLogger

FOLDER, FILE = "csv", "metrics.csv"


class CSV(RunLogger, CSVLogger):
    """Lightning's CSV logger with another table: one row for each step, and a resumed run keeps its rows.

    Args:
        save_dir: where the folder `csv` is made.
    """

    label = "csv"

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name="", version=FOLDER)

    @property
    @rank_zero_experiment
    def experiment(self) -> StepTable:
        """The table, read from its file when it is first used."""
        if self._experiment is None:
            self._experiment: Any = StepTable(Path(self.log_dir) / FILE)
        return self._experiment

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Add values to the row of a step; None for the last row."""
        self.experiment.add(step, {name: float(value) for name, value in metrics.items()})

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any] | None = None) -> None:
        """Write the hyperparameters to `hparams.yaml`."""
        write_text(
            Path(self.log_dir) / "hparams.yaml", OmegaConf.to_yaml(OmegaConf.create(dict(params or {})))
        )

    @rank_zero_only
    def save(self) -> None:
        """Write the rows."""
        self.experiment.save()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write the rows. Where a run has failed, an error of writing is ignored in favour of its own."""
        try:
            self.save()
        except Unwritable:
            if status != "failed":
                raise

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Write an image file for each step."""
        write_file(self._file(f"{name}-{step:08d}.png"), image.save)

    def text(self, name: str, text: str, step: int) -> None:
        """Write the newest text of a name to a file."""
        write_text(self._file(f"{name}.md"), f"{text}\n")

    def positions(self, step: int) -> Positions:
        """The step, up to which rows are kept."""
        self.save()
        return {FILE: step}

    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Prepare to remove the rows after the step in `positions`, else after that of the checkpoint.

        Raises:
            UserError: the folder is a link that leads out of the run, or the file is a link.
        """
        check_inside(Path(self.save_dir), [FOLDER])
        check_own(Path(self.log_dir) / FILE)
        return partial(self._cut, positions.get(FILE, step or -1))

    def place(self) -> str | None:
        """The path of the table."""
        path = Path(self.log_dir) / FILE
        return str(path) if path.is_file() else None

    def _cut(self, step: int) -> None:
        self.experiment.cut(step)

    def _file(self, name: str) -> Path:
        return Path(self.log_dir) / re.sub(r"[^\w.+=-]", "-", name)
