"""Mean and standard deviation of metrics over runs of a sweep that differ only in their seed."""

from collections.abc import Sequence
from statistics import fmean, stdev

from consistency.sweep.identity import override_settings
from consistency.sweep.runs import Run, RunState, split_override
from consistency.table import Table

SEED = "seed"
TITLE = "Mean ± standard deviation over seeds"


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Groups of two or more finished runs that differ only in their seed, in the order of the runs."""
    found: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run in runs:
        if run.state is RunState.FINISHED:
            rest = override_settings([each for each in run.overrides if split_override(each)[0] != SEED])
            found.setdefault(tuple(sorted(rest.items())), []).append(run)
    return [group for group in found.values() if len(group) > 1]


def over_seeds(runs: Sequence[Run], common: Sequence[str], metrics: Sequence[str]) -> Table | None:
    """A row for each group, a column for each metric; None without a group.

    Args:
        runs: of a sweep.
        common: overrides that all have, which are left out.
        metrics: names of the columns.
    """
    rows = []
    for group in seed_groups(runs):
        given = [
            each for each in group[0].overrides if each not in common and split_override(each)[0] != SEED
        ]
        seeds = ", ".join(run.seed or "0" for run in group)
        rows.append([" ".join(given), seeds, *(seed_cell(group, metric) for metric in metrics)])
    return Table(["overrides", "seeds", *metrics], rows, TITLE) if rows else None


def seed_cell(group: Sequence[Run], metric: str) -> str:
    """Mean ± sample standard deviation over the runs that have the metric, and their number if not all."""
    values = [run.metrics[metric] for run in group if metric in run.metrics]
    if len(values) < 2:
        return "" if not values else f"{values[0]:.4g} (1 of {len(group)})"
    share = "" if len(values) == len(group) else f" ({len(values)} of {len(group)})"
    return f"{fmean(values):.4g} ± {stdev(values):.2g}{share}"
