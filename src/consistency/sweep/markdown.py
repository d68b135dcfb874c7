"""The table of methods in Markdown."""

from collections.abc import Callable, Iterable, Sequence
from statistics import fmean, stdev

from consistency.errors import strip_controls
from consistency.sweep.rows import (
    COLUMNS,
    FRESH,
    JUMPS,
    OF_MAPS,
    Column,
    MethodRow,
    Result,
    problems,
    row_floor,
)
from consistency.sweep.runs import Run, RunState
from consistency.table import Table


def rows_markdown(rows: Sequence[MethodRow]) -> str:
    """A table for every problem, and a list of the runs without numbers."""
    parts = [problem_section(problem, group) for problem, group in problems(rows).items()]
    absent = [line for row in rows for line in map(absence, row.runs) if line]
    return "\n".join([*parts, *absent]).rstrip() + "\n"


def problem_section(problem: str, rows: Sequence[MethodRow]) -> str:
    """A heading, how the numbers came about, a line per method; for flow maps also a table by calls."""
    tables = [methods_table(rows, [*COLUMNS, *measured(rows, OF_MAPS)], calls)]
    by_calls = measured(rows, (*JUMPS, *FRESH))
    if any(column in JUMPS for column in by_calls):
        tables.append(f"Sliced W2 by network calls:\n\n{methods_table(rows, by_calls)}")
    return f"## {problem}\n\n{conditions(rows)}\n\n" + "\n\n".join(tables) + "\n"


def measured(rows: Sequence[MethodRow], columns: Sequence[Column]) -> list[Column]:
    """The columns of which a run has a number."""
    return [column for column in columns if any(row.values(column) for row in rows)]


def methods_table(
    rows: Sequence[MethodRow], columns: Sequence[Column], last: Callable[[Result], str] | None = None
) -> str:
    """A line per method with the mean and spread of every number, and one of a perfect model.

    Args:
        rows: the methods.
        columns: the numbers.
        last: result -> text of a last column, the calls per sample.
    """
    head = ["method", *(column.title for column in columns), *(["calls per sample"] if last else [])]
    floor = [(column.digits, row_floor(rows, column)) for column in columns]
    floors = ["floor", *("" if value is None else f"{value:.{digits}f}" for digits, value in floor)]
    lines = [row_line(row, columns) + ([either(map(last, row.results))] if last else []) for row in rows]
    return Table(head, [*lines, floors + [""] * bool(last)]).markdown()


def row_line(row: MethodRow, columns: Sequence[Column]) -> list[str]:
    """Mean and spread of every number."""
    name = row.method + share(len(row.results), len(row.runs))
    return [name, *(cell_text(column, row) for column in columns)]


def cell_text(column: Column, row: MethodRow) -> str:
    """Mean ± sample standard deviation, over the runs that have the number."""
    values = row.values(column)
    if not values:
        return "–"
    mean = f"{fmean(values):.{column.digits}f}"
    spread = f" ± {stdev(values):.{column.digits}f}" if len(values) > 1 else ""
    return mean + spread + share(len(values), len(row.results))


def share(found: int, total: int) -> str:
    """The number of runs with a result, where some have none."""
    return "" if found == total else f" ({found} of {total})"


def calls(result: Result) -> str:
    """Network calls per sample in a training step, as text."""
    counted = (result.get("calls") or {}).get("training") or {}
    parts = [(counted.get("forward"), ""), (counted.get("jvp"), " jvp"), (counted.get("teacher"), " teacher")]
    return " + ".join(f"{count:g}{name}" for count, name in parts if count)


def conditions(rows: Sequence[MethodRow]) -> str:
    """The conditions that all runs should have in common."""
    results = [result for row in rows for result in row.results]
    steps = either(f"{result['steps']:,}" for result in results)
    batch = either(str(round(result["images"] / max(result["steps"], 1))) for result in results)
    seeds = ", ".join(dict.fromkeys(run.seed or "0" for row in rows for run in row.runs))
    device = either(result["device"] for result in results)
    commit = either(short_commit(result["commit"]) for result in results)
    made = f"{steps} optimiser steps of {batch} samples on {device}, commit {commit}"
    return f"{made}. Mean ± standard deviation over seeds {seeds}."


def short_commit(commit: str | None) -> str:
    """Seven digits, and the + of a tree with changes."""
    return "unknown" if commit is None else commit[:7] + "+" * commit.endswith("+")


def either(values: Iterable[str]) -> str:
    """The value that all share, or a list of all values."""
    return " or ".join(dict.fromkeys(values))


def absence(run: Run) -> str | None:
    """A line about a run without a result or without numbers; None for any other."""
    name = f"- `{run.recipe}`, seed {run.seed}"
    if run.state is not RunState.FINISHED:
        return f"{name}: {run.state}{f': {strip_controls(run.reason)}' if run.reason else ''}"
    if run.result is None:
        return None
    lost = [metric for metric, value in run.result["metrics"].items() if value is None]
    return f"{name}: not finite: {', '.join(lost)}" if lost else None
