"""The rows and columns of the table of methods: a row per method with a run per seed, a column per number."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from consistency.sweep.runs import Run

Result = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """One number of a result.

    Args:
        title: head of the column.
        digits: shown behind the point.
        of: result -> the number; None where it was not measured, or was not finite.
        floor: result -> what a perfect model would have, where that is known.
    """

    title: str
    digits: int
    of: Callable[[Result], float | None]
    floor: Callable[[Result], float | None] = lambda result: None


def metric(name: str) -> Callable[[Result], float | None]:
    """The metric of this name."""
    return lambda result: result["metrics"].get(name)


RMSE = Column("RMSE at σ_max", 4, metric("oracle_rmse"))
RMSE_MEAN = Column("RMSE, mean over σ", 4, metric("oracle_rmse_mean"))
ONE_STEP = Column("sliced W2, one step", 4, metric("SW2/1step"), metric("SW2/floor"))
TWO_STEPS = Column("sliced W2, two steps", 4, metric("SW2/2step"), metric("SW2/floor"))
SECONDS = Column("seconds", 0, lambda result: result["seconds"])
TEACHER = Column("teacher's seconds", 0, lambda result: result.get("teacher_seconds"))
MEMORY = Column("MiB per step", 1, lambda result: result.get("memory_mib"))
COLUMNS = (RMSE, RMSE_MEAN, ONE_STEP, TWO_STEPS, SECONDS, TEACHER, MEMORY)


@dataclass(frozen=True)
class MethodRow:
    """One method on one problem.

    Args:
        problem: what it learns: the end of the recipe's name.
        method: the rest of that name, and whatever else tells it from other rows of this method.
        runs: one per seed.
    """

    problem: str
    method: str
    runs: tuple[Run, ...]

    @property
    def results(self) -> list[Result]:
        """Results of the runs that have ended."""
        return [run.result for run in self.runs if run.result is not None]

    def values(self, column: Column) -> list[float]:
        """The numbers of a column, of the runs that have one."""
        return [value for value in map(column.of, self.results) if value is not None]


def rows(runs: Sequence[Run]) -> list[MethodRow]:
    """Runs that differ in their seed alone make a row; those of a method stand together."""
    found: dict[tuple[str, str], dict[tuple[str, ...], list[Run]]] = {}
    for run in runs:
        method, _, problem = run.recipe.rpartition("_")
        overrides = tuple(each for each in run.overrides if each.partition("=")[0] != "seed")
        found.setdefault((problem, method), {}).setdefault(overrides, []).append(run)
    made = []
    for (problem, method), variants in found.items():
        for overrides, group in variants.items():
            own = [each for each in overrides if not all(each in other for other in variants)]
            made.append(MethodRow(problem, " ".join([method, *own]), tuple(group)))
    return made


def problems(rows: Sequence[MethodRow]) -> dict[str, list[MethodRow]]:
    """The rows of each problem."""
    found: dict[str, list[MethodRow]] = {}
    for row in rows:
        found.setdefault(row.problem, []).append(row)
    return found


def row_floor(rows: Sequence[MethodRow], column: Column) -> float | None:
    """The value of a perfect model: the same for all runs, which have the same data and number of samples."""
    values = [column.floor(result) for row in rows for result in row.results]
    return next((value for value in values if value is not None), None)
