"""The table of a sweep: all runs with their states and metrics."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from consistency.errors import strip_controls
from consistency.files.atomic import write_text
from consistency.markup import literal_text
from consistency.sweep.runs import Run, runs_of
from consistency.sweep.seeds import over_seeds
from consistency.table import Table as Markdown

NAME = "table.md"
COLUMNS = 100  # of a terminal


class Table:
    """Writes `table.md` into the directory of a sweep."""

    def write(self, directory: Path) -> None:
        """Write it from the files of the runs in the directory."""
        write_text(directory / NAME, table_text(runs_of(directory)))

    def show(self, directory: Path) -> None:
        """Write it, and print a table that fits a terminal."""
        self.write(directory)
        print(f"\n{brief_table(runs_of(directory))}\ntable        {directory / NAME}", flush=True)


def table_text(runs: Sequence[Run]) -> str:
    """The common overrides, a row per run, means over seeds, and the reasons of runs without a result."""
    common, metrics = shared_overrides(runs), measured_metrics(runs)
    parts = [f"All with {literal_text(' '.join(common))}"] if common else []
    parts.append(overview(runs, common).markdown())
    means = over_seeds(runs, common, metrics)
    parts += [means.markdown()] if means else []
    parts += ["\n".join(reasons(runs))] if any(run.reason for run in runs) else []
    return "\n\n".join(parts) + "\n"


def brief_table(runs: Sequence[Run]) -> str:
    """The table for a terminal, with as many metrics as fit; gaps are left out first."""
    common = shared_overrides(runs)
    metrics = sorted(measured_metrics(runs), key=lambda name: name.startswith("gap/"))
    tables = narrow(runs, common, metrics)
    while metrics and max(len(line) for each in tables for line in each.text().splitlines()) > COLUMNS:
        tables = narrow(runs, common, metrics := metrics[:-1])
    parts = [f"All with {strip_controls(' '.join(common))}"] if common else []
    parts += [each.text() for each in tables]
    parts += ["\n".join(reasons(runs))] if any(run.reason for run in runs) else []
    return "\n\n".join(parts) + "\n"


def narrow(runs: Sequence[Run], common: Sequence[str], metrics: Sequence[str]) -> list[Markdown]:
    """The tables, with some of the metrics."""
    means = over_seeds(runs, common, metrics)
    return [overview(runs, common, metrics), *([means] if means else [])]


def measured_metrics(runs: Sequence[Run]) -> list[str]:
    """The metrics that any of the runs has."""
    return sorted({name for run in runs for name in run.metrics})


def overview(
    runs: Sequence[Run], common: Sequence[str] = (), metrics: Sequence[str] | None = None
) -> Markdown:
    """A row per run, a column per metric; all that any of them has, unless some are named."""
    metrics = measured_metrics(runs) if metrics is None else metrics
    rows = []
    for run in runs:
        values = [f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in metrics]
        seconds = "" if run.seconds is None else f"{run.seconds:.0f}"
        own = " ".join(each for each in run.overrides if each not in common)
        state = f"{run.state} ({run.debug})" if run.debug else run.state
        rows.append([run.name, own, state, *values, seconds])
    return Markdown(["run", "overrides", "state", *metrics, "seconds"], rows)


def shared_overrides(runs: Sequence[Run]) -> list[str]:
    """The overrides of all runs, where there are several."""
    if len(runs) < 2:
        return []
    return [each for each in runs[0].overrides if all(each in run.overrides for run in runs)]


def reasons(runs: Sequence[Run]) -> Iterator[str]:
    """Yield the reasons for the states of runs, as a list in Markdown."""
    for run in runs:
        if run.reason:
            yield f"- run {literal_text(run.name)}, {run.state}: {literal_text(strip_controls(run.reason))}"
