"""The table of methods in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev

from consistency.errors import strip_controls
from consistency.sweep.rows import COLUMNS, Column, MethodRow, Result, problems, row_floor
from consistency.sweep.runs import Run, RunState
from consistency.table import Table


def rows_markdown(rows: Sequence[MethodRow]) -> str:
    """A table for every problem, and a list of the runs without numbers."""
    parts = [problem_section(problem, group) for problem, group in problems(rows).items()]
    absent = [line for row in rows for line in map(absence, row.runs) if line]
    return "\n".join([*parts, *absent]).rstrip() + "\n"


def problem_section(problem: str, rows: Sequence[MethodRow]) -> str:
    """A heading, the conditions of the runs, and a line per method."""
    head = ["method", *(column.title for column in COLUMNS), "calls per sample"]
    table = Table(head, [*map(row_line, rows), floors(rows)])
    return f"## {problem}\n\n{conditions(rows)}\n\n{table.markdown()}\n"


def row_line(row: MethodRow) -> list[str]:
    """The cells of a method: mean and spread of every column."""
    name = row.method + share(len(row.results), len(row.runs))
    return [name, *(cell_text(column, row) for column in COLUMNS), either(map(calls, row.results))]


def floors(rows: Sequence[MethodRow]) -> list[str]:
    """The line with the floor of every column."""
    values = [(column.digits, row_floor(rows, column)) for column in COLUMNS]
    return ["floor", *("" if value is None else f"{value:.{digits}f}" for digits, value in values), ""]


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
