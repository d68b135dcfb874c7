"""The remaining time of a sweep, and its best run."""

from collections.abc import Sequence
from statistics import fmean

from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError, strip_controls
from consistency.files.configs import file_of
from consistency.metrics.choice import pick
from consistency.sweep.runs import Run, RunState
from consistency.sweep.table import shared_overrides
from consistency.watch import clock

LENGTH = "trainer.max_steps"


def outlook(runs: Sequence[Run], steps: int | None, together: int) -> str | None:
    """A line with the estimated time of the runs that are left; None where none is left.

    Args:
        runs: of the sweep; those that have ended say how long one takes.
        steps: of each run whose command line names none.
        together: runs at a time.
    """
    left = len({run.directory for run in runs if not run.is_settled})
    if not left:
        return None
    known = [seconds for run in runs if run.is_settled and (seconds := seconds_taken(run)) is not None]
    if known:
        return f"{left} to go, about {clock(fmean(known) * left / together)} by the {len(known)} before"
    given = {run.override(LENGTH) or steps for run in runs} - {None}
    each = f"{' or '.join(sorted(map(str, given)))} steps each; " if given else ""
    return f"{each}how long they take is known after the first"


def named_steps(config: DictConfig) -> int | None:
    """The number of steps that a sweep sets for all its runs, as sweep=oracle does."""
    path = file_of(f"sweep/{config.hydra.runtime.choices.get('sweep')}")
    named = OmegaConf.select(OmegaConf.load(path), LENGTH) if path.is_file() else None
    return None if named is None else config.trainer.max_steps


def seconds_taken(run: Run) -> float | None:
    """Seconds of a run that has ended, including those of its teacher."""
    teacher = (run.result or {}).get("teacher_seconds") or 0.0
    return None if run.seconds is None else run.seconds + teacher


def best(runs: Sequence[Run], metric: str | None) -> str | None:
    """The finished run with the lowest value of a metric, with its overrides; None where there is none.

    Debug runs are left out.
    """
    found = [
        (value, run)
        for run in runs
        if run.state is RunState.FINISHED
        and run.debug is None
        and (value := optimised_value(run, metric)) is not None
    ]
    if len(found) < 2:
        return None
    value, run = min(found, key=lambda pair: pair[0])
    return f"best         run {run.name}, {metric} {value:.4g}, with {own_overrides(run, runs)}"


def optimised_value(run: Run, metric: str | None) -> float | None:
    """The metric that the sweep optimises; None where it was not measured, or was not finite."""
    if not metric or not run.metrics:
        return None
    try:
        return pick(metric, run.metrics)
    except UserError:
        return None


def own_overrides(run: Run, among: Sequence[Run]) -> str:
    """The overrides of a run that others do not have."""
    common = shared_overrides(among)
    return strip_controls(" ".join(each for each in run.overrides if each not in common))
