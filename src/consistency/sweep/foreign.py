"""Sweeps by other launchers, such as Hydra's own: their runs leave the same files."""

from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from consistency.errors import UserError
from consistency.process.rank import is_first
from consistency.sweep.identity import same_run
from consistency.sweep.runs import OVERRIDES, RunState, forget_fault, keep_fault, plan_run, read_overrides


class Foreign(Callback):
    """Writes the overrides of a job of a sweep, and the reason of its failure, to files of its directory."""

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        """Write the overrides."""
        if swept(config):
            directory = Path(config.hydra.runtime.output_dir)
            if not holds_another(directory, config):  # which is refused, and stays what it is
                plan_run(directory, list(config.hydra.overrides.task))
                forget_fault(directory)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Write the reason of a failure."""
        directory = Path(config.hydra.runtime.output_dir)
        if swept(config) and job_return.status == JobStatus.FAILED and not holds_another(directory, config):
            error = job_return._return_value  # the property would raise it
            keep_fault(directory, state_of(error), foreign_reason(error))


def holds_another(directory: Path, config: DictConfig) -> bool:
    """Whether a directory is that of another run: other launchers number the runs of each command anew."""
    if not (directory / OVERRIDES).is_file():
        return False
    return not same_run(read_overrides(directory / OVERRIDES), list(config.hydra.overrides.task))


def swept(config: DictConfig) -> bool:
    """Whether this process speaks for a job of a sweep."""
    return config.hydra.mode == RunMode.MULTIRUN and is_first()


def state_of(error: BaseException) -> RunState:
    """Of a run that ends so."""
    cause = users(error)
    return RunState.FAILED if cause is None else RunState(cause.state)


def foreign_reason(error: BaseException) -> str:
    """The message of an error, with a remedy where there is one."""
    cause = users(error)
    return f"{type(error).__name__}: {error}" if cause is None else str(cause)


def users(error: BaseException | None) -> UserError | None:
    """The `UserError` among the causes of an error."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__
    return error
