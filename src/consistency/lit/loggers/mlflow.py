"""The log of a run in MLflow (https://mlflow.org)."""

import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from PIL import Image

from consistency.errors import UserError, strip_controls
from consistency.files.owned import check_inside
from consistency.lit.loggers.base import logger_library
from consistency.lit.loggers.identity import RunId, Tracker, sweep_of

FOLDER = "mlflow"  # in the directory of the run: the id, and the local store
ARTIFACTS = "artifacts"
REFUSED = re.compile(r"[^\w./ -]", re.ASCII)  # in names
CHATTY = ("alembic", "mlflow")  # names of Python loggers that report each table of a new store


class MLflow(Tracker, MLFlowLogger):
    """Lightning's MLflow logger, which continues the run whose id is in the run directory.

    Args:
        save_dir: where the folder `mlflow` is made.
        project: MLflow's experiment.
        name: of the run; None for one that MLflow generates.
        tracking_uri: of a server or a store; None for the variable MLFLOW_TRACKING_URI, else a store in
            `save_dir`.

    Raises:
        UserError: the library is not installed.
    """

    label = "mlflow"

    def __init__(
        self,
        save_dir: str,
        project: str = "consistency",
        name: str | None = None,
        tracking_uri: str | None = None,
    ) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # off unless the user sets it
        logger_library("mlflow")
        self.directory = (Path(save_dir) / FOLDER).absolute()
        uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        self.local = uri is None
        place = uri or f"sqlite:///{self.directory / 'mlflow.db'}"
        files = str(self.directory / ARTIFACTS) if self.local else None
        with without_mlflow_reports():
            super().__init__(project, name, place, artifact_location=files)
        self.kept = RunId(Path(save_dir), FOLDER)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The client; the run is created or continued when it is first used."""
        if not self._initialized:
            self._begin()
        return self._mlflow_client

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log scalars; characters that MLflow does not accept in a name are replaced by _."""
        super().log_metrics({accepted(name): value for name, value in metrics.items()}, step)

    @rank_zero_only
    def log_hyperparams(self, params: Mapping[str, Any]) -> None:
        """Log hyperparameters. MLflow cannot change them: those that a continued run changes become tags."""
        logged = self.experiment.get_run(self.run_id).data.params
        named = {accepted(name): str(value)[:250] for name, value in params.items()}
        for name in [name for name in named if logged.get(name, named[name]) != named[name]]:
            self.experiment.set_tag(self.run_id, name, named.pop(name))
        super().log_hyperparams({name: value for name, value in named.items() if name not in logged})

    def picture(self, name: str, image: Image.Image, step: int) -> None:
        """Log an image."""
        now = int(time.time() * 1000)
        self.experiment.log_image(self.run_id, image, key=accepted(name), step=step, timestamp=now)

    def text(self, name: str, text: str, step: int) -> None:
        """Log the newest text of a name as an artifact."""
        self.experiment.log_text(self.run_id, text, f"{accepted(name)}.md")

    def place(self) -> str | None:
        """The address of the store or server, and the id of the run."""
        return f"{self._tracking_uri} run {self._run_id}" if self._initialized else None

    def end_row(self, failed: bool) -> None:
        """Close the run."""
        if self._initialized:
            self._mlflow_client.set_terminated(self._run_id, "FAILED" if failed else "FINISHED")

    def _begin(self) -> None:
        mlflow = logger_library("mlflow")
        check_inside(self.directory.parent, [FOLDER])
        self._run_id = self.kept.known()
        if self.local:
            self.directory.mkdir(parents=True, exist_ok=True)
        with without_mlflow_reports():
            try:
                if self._run_id is not None:
                    self._mlflow_client.update_run(self._run_id, status="RUNNING")
                elif self._mlflow_client.get_experiment_by_name(self._experiment_name) is None:
                    self._mlflow_client.create_experiment(
                        self._experiment_name, artifact_location=self._artifact_location
                    )
                client = MLFlowLogger.experiment.fget(self)  # type: ignore[attr-defined]
            except mlflow.exceptions.MlflowException as error:
                raise UserError(mlflow_refusal(error, self._tracking_uri)) from error
        group = sweep_of(self.kept.directory)
        if self.kept.known() is None:
            self.kept.keep(str(self._run_id))
            if group is not None:
                client.set_tag(self._run_id, "sweep", group)


def accepted(name: str) -> str:
    """A name with all characters but letters, digits, spaces and _./- replaced by _."""
    return REFUSED.sub("_", name)


def mlflow_refusal(error: Exception, uri: str) -> str:
    """The message of an error of MLflow on one line, with a remedy."""
    message = strip_controls(str(error))[:300]
    remedy = f"check logger.mlflow.tracking_uri, or delete {FOLDER}/run_id to log as a new run"
    return f"logger=mlflow: {uri}: {message}; {remedy}"


@contextmanager
def without_mlflow_reports() -> Iterator[None]:
    """Silence the reports of MLflow on the tables that it creates."""
    loggers = [logging.getLogger(name) for name in CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
