"""The files of a search: a table of its trials, the best of them, and Optuna's plots."""

import shlex
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from consistency.errors import strip_controls
from consistency.files.atomic import write_file, write_text
from consistency.markup import literal_text
from consistency.sweep.runs import is_sweep, runs_of
from consistency.sweep.space import trial_overrides
from consistency.sweep.study import DIRECTORY, REASON, RUN, STATE, Trials, without_optuna_advice
from consistency.sweep.table import NAME, table_text
from consistency.sweep.work import Tabled
from consistency.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 30.0  # ratio of the largest to the smallest value from which an axis is logarithmic
Plot = Callable[..., Any]  # of Optuna: a study -> axes


@dataclass(frozen=True)
class TrialsTable:
    """Writes `table.md`, `importance.png` and `slice.png` into the directory of a search.

    Args:
        trials: of the study.
        metric: that is optimised.
        runs: a table of the runs, which may leave files of its own.
    """

    trials: Trials
    metric: str
    runs: Tabled

    def write(self, directory: Path) -> None:
        """Write the tables from the study and the files of the runs."""
        if is_sweep(directory):
            self.runs.write(directory)
        of_runs = table_text(runs_of(directory)) if is_sweep(directory) else ""
        write_text(directory / NAME, f"## Trials\n\n{self.text()}\n## Runs\n\n{of_runs}")

    def show(self, directory: Path) -> None:
        """Write the tables and the plots, and print the trials and the best of them."""
        self.write(directory)
        print(f"\n{self.text()}\ntable        {directory / NAME}", flush=True)
        study, module = self.trials.study, optuna.visualization.matplotlib
        for name, plot in (("importance", module.plot_param_importances), ("slice", module.plot_slice)):
            if why := unplottable(self.trials.all()):
                print(f"{name:<12} is left out: {why}")
            else:
                with draw_plot(plot, study, self.metric) as figure:
                    write_file(
                        directory / f"{name}.png",
                        lambda path, made=figure: made.savefig(path, dpi=150, bbox_inches="tight"),
                    )
                print(f"{name:<12} {directory / f'{name}.png'}")

    def text(self) -> str:
        """A row for each trial, the reasons of those that have no value, and the best parameters."""
        made = self.trials.all()
        reasons = "\n".join(reasons_of(made))
        best = self.best(made)
        return "\n".join(
            [
                trials_table(made, self.metric, self.trials.directory).markdown(),
                "",
                *([reasons, ""] if reasons else []),
                *best,
            ]
        )

    def best(self, trials: Sequence[FrozenTrial]) -> list[str]:
        """Lines with the best trial and a command that can be pasted; empty where none has completed.

        A search of debug runs has none.
        """
        here = self.trials.storage.path.parent / self.trials.directory
        if is_sweep(here) and any(run.debug for run in runs_of(here)):
            return []
        done = [trial for trial in trials if trial.state is TrialState.COMPLETE]
        if not done:
            return []
        sign = 1 if self.trials.study.direction is StudyDirection.MINIMIZE else -1
        best = min(done, key=lambda trial: sign * (trial.value or 0.0))
        given = strip_controls(shlex.join(trial_overrides(best.params)))
        return [f"Best: trial {best.number}, {self.metric} {best.value:.4g}, with", "", f"    {given}", ""]


def trials_table(trials: Sequence[FrozenTrial], metric: str, directory: str) -> Table:
    """A row for each trial; the run of another search has its directory before its name."""
    rows = []
    for trial in trials:
        value = f"{trial.value:.4g}" if trial.value is not None and trial.state is TrialState.COMPLETE else ""
        state = trial.user_attrs.get(STATE) or trial.state.name.lower()
        run, place = trial.user_attrs.get(RUN, ""), trial.user_attrs.get(DIRECTORY)
        run = run if place == directory else f"{place}/{run}"
        rows.append([str(trial.number), str(run), " ".join(trial_overrides(trial.params)), str(state), value])
    return Table(["trial", "run", "overrides", "state", metric], rows)


def reasons_of(trials: Sequence[FrozenTrial]) -> Iterator[str]:
    """Yield the reasons of trials without a value, as a list in Markdown."""
    for trial in trials:
        if reason := trial.user_attrs.get(REASON):
            state = trial.user_attrs.get(STATE) or trial.state.name.lower()
            yield f"- trial {trial.number}, {state}: {literal_text(strip_controls(str(reason)))}"


def unplottable(trials: Sequence[FrozenTrial]) -> str | None:
    """The reason why trials cannot be plotted; None if they can."""
    values = [trial.value for trial in trials if trial.state is TrialState.COMPLETE]
    if len(values) < 2:
        return f"{len(values)} of {len(trials)} trials completed, and it needs two"
    if len(set(values)) == 1:
        return "all trials have the same value"
    return None


@contextmanager
def draw_plot(plot: Plot, study: optuna.Study, metric: str) -> Iterator["Figure"]:
    """A plot of Optuna, which changes the style of pyplot; the style is restored at the end."""
    import matplotlib
    from matplotlib import pyplot

    former = matplotlib.get_backend()
    pyplot.switch_backend("agg")
    try:
        with without_optuna_advice(), matplotlib.rc_context():
            warnings.filterwarnings("ignore", message=".*identical.*lim.*")  # all trials at one place
            axes = plot(study, target_name=metric)
            figure = pyplot.gcf()
            trial_scale(axes, study)
            yield figure
    finally:
        pyplot.close("all")
        pyplot.switch_backend(former)


def trial_scale(axes: Any, study: optuna.Study) -> None:
    """A logarithmic axis for values of several orders of magnitude."""
    values = [trial.value for trial in study.get_trials(deepcopy=False) if trial.state is TrialState.COMPLETE]
    found = [value for value in values if value is not None]
    if min(found) > 0 and max(found) / min(found) > WIDE:
        for one in getattr(axes, "flat", [axes]):
            one.set_yscale("log")
