"""The table that a sweep leaves beside its runs: every run, its state, and its numbers if it ended."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from consistency.errors import plain
from consistency.files.atomic import write_text
from consistency.sweep.runs import Run, runs_of
from consistency.table import Table as Markdown
from consistency.table import literal

NAME = "table.md"


class Table:
    """Writes `table.md` into the directory of a sweep."""

    def write(self, directory: Path) -> None:
        """Make it from what the runs have left there."""
        write_text(directory / NAME, text(runs_of(directory)))

    def show(self, directory: Path) -> None:
        """The same, and print it."""
        self.write(directory)
        print(f"\n{text(runs_of(directory))}\ntable        {directory / NAME}", flush=True)


def text(runs: Sequence[Run]) -> str:
    """What all runs have in common, a row for each, and the reason of those that have no result."""
    common = shared(runs)
    parts = [f"All with {literal(' '.join(common))}"] if common else []
    parts.append(overview(runs, common).markdown())
    parts += ["\n".join(reasons(runs))] if any(run.reason for run in runs) else []
    return "\n\n".join(parts) + "\n"


def overview(runs: Sequence[Run], common: Sequence[str] = ()) -> Markdown:
    """A row per run, a column per metric that any of them has."""
    metrics = sorted({name for run in runs for name in run.metrics})
    rows = []
    for run in runs:
        values = [f"{run.metrics[name]:.4g}" if name in run.metrics else "" for name in metrics]
        seconds = "" if run.seconds is None else f"{run.seconds:.0f}"
        own = " ".join(each for each in run.overrides if each not in common)
        rows.append([run.name, own, run.state, *values, seconds])
    return Markdown(["run", "overrides", "state", *metrics, "seconds"], rows)


def shared(runs: Sequence[Run]) -> list[str]:
    """The overrides of all runs, where there are several."""
    if len(runs) < 2:
        return []
    return [each for each in runs[0].overrides if all(each in run.overrides for run in runs)]


def reasons(runs: Sequence[Run]) -> Iterator[str]:
    """Why runs are in their states, as a list in Markdown."""
    for run in runs:
        if run.reason:
            yield f"- run {literal(run.name)}, {run.state}: {literal(plain(run.reason))}"
