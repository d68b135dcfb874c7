"""task=compare: a table of several results, if their protocols agree."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from consistency.errors import UserError, nearest
from consistency.files.atomic import write_text
from consistency.files.paths import regular
from consistency.metrics.card import Number, forbidding_differences, number_from_plain
from consistency.metrics.processes import rank
from consistency.result import is_number
from consistency.sweep.single import check_single
from consistency.table import Table, tables_markdown
from consistency.tasks.session import Outcome, Session

EVERYTHING = "all"
LARGEST = 1e100  # largest value: sums of squares stay within float64

Numbers = dict[str, list[Number]]  # by sampler, one for each set of samples


@dataclass(frozen=True)
class Compare:
    """Compares results whose cards differ in the model only; refuses other differences.

    Args:
        results: at least two: a result.json, the directory of a run or evaluation, or a checkpoint of a run.
        names: a sampler of each result, in the same order; None for all samplers that they share.
        allow: entries of the protocol that may differ, such as [sampler, sigmas, nfe]; [all] for all.
    """

    results: Sequence[str]
    names: Sequence[str] | None = None
    allow: Sequence[str] = ()

    def __call__(self, session: Session) -> Outcome:
        """Write `compare.md`: means, spread over the sets of samples, differences from the first result.

        Raises:
            UserError: a result cannot be read, or the protocols differ.
        """
        if isinstance(self.results, str) or len(self.results) < 2:
            raise UserError(f"task.results={self.results} must name at least two: task.results=[A,B]")
        found = [read_numbers(Path(path)) for path in self.results]
        tables = [comparison_table(self.results, row) for row in self._rows(found)]
        path = session.directory / "compare.md"
        if rank() == 0:
            write_text(path, tables_markdown(tables))
        return Outcome(paths={"table": str(path)}, tables=tables)

    def _rows(self, found: Sequence[Numbers]) -> list[list[tuple[str, list[Number]]]]:
        """The comparisons to make: for each, the sampler's name and numbers of every result."""
        if self.names is not None and len(self.names) != len(found):
            raise UserError(
                f"task.names={list(self.names)} must name a sampler for each of {len(found)} results"
            )
        shared = [name for name in found[0] if all(name in other for other in found)]
        chosen = [list(self.names)] if self.names else [[name] * len(found) for name in shared]
        if not chosen:
            lists = "; ".join(", ".join(numbers) for numbers in found)
            raise UserError(
                f"task.results share no sampler ({lists}): name one of each with task.names=[A,B]"
            )
        rows = []
        for names in chosen:
            for name, numbers in zip(names, found, strict=True):
                if name not in numbers:
                    raise UserError(f"task.names: {name} was not measured: {nearest(name, numbers)}")
            rows.append([(name, numbers[name]) for name, numbers in zip(names, found, strict=True)])
        for row in rows:
            self._check(row)
        return rows

    def _check(self, row: list[tuple[str, list[Number]]]) -> None:
        """Raise UserError if the cards differ; repeats are compared in pairs, as their seeds differ."""
        if EVERYTHING in self.allow:
            return
        (_, ours), *others = row
        for name, theirs in others:
            several = len(ours) > 1 and len(ours) == len(theirs)
            pairs = zip(ours, theirs, strict=True) if several else [(ours[0], theirs[0])]
            wrong = [text for a, b in pairs for text in forbidding_differences(a.card, b.card, self.allow)]
            if len(ours) != len(theirs):
                wrong.append(f"repeats are {len(ours)} in one and {len(theirs)} in the other")
            if wrong:
                reasons = "; ".join(dict.fromkeys(wrong))
                raise UserError(
                    f"{name}: these must not be compared: {reasons}. Measure both in the same way, or say "
                    "task.allow=[…] of what may differ"
                )


def read_numbers(path: Path) -> Numbers:
    """The numbers of a result with their cards.

    Args:
        path: a result.json, the directory of a run or evaluation, or a checkpoint of a run.

    Raises:
        UserError: there are no numbers with cards, or the run was a debug run or a sweep.
    """
    check_single(path, "task.results")
    run = path.parent.parent if path.suffix == ".ckpt" else path
    file = run / "result.json" if run.is_dir() else path
    try:
        kept = json.loads(regular(file).read_text("utf-8"))
        debug = kept.get("debug")
        found: Numbers = {}
        for number in map(parse_number, kept["numbers"]):
            found.setdefault(number["name"], []).append(number_from_plain(number))
    except OSError as error:
        raise UserError(f"task.results: {file} cannot be read ({error.strerror})") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(
            f"task.results: {file} holds no numbers with cards: measure with task=fidelity"
        ) from error
    if debug is not None:
        raise UserError(
            f"task.results: {file} is of a debug run (debug={debug!s:.80}), which is no result: leave it out"
        )
    if not found:
        raise UserError(f"task.results: {file} holds no numbers: measure with task=fidelity")
    return found


def parse_number(number: dict[str, Any]) -> dict[str, Any]:
    """An entry of `numbers` in a result.json, checked, with NaN for null values.

    Raises:
        TypeError: a name, a value or a part of the card is of another type, or a value too large for a mean.
        OverflowError: a value is beyond float64.
    """
    card, values = number["card"], number["values"]
    plain = {name: nan_for_null(value) for name, value in values.items()}
    parts = [card["model"], card["protocol"], card["code"], values]
    ours = isinstance(number["name"], str) and all(isinstance(part, dict) for part in parts)
    if not (ours and "version" in card["code"]):
        raise TypeError("not a number with a card")
    return {"name": number["name"], "values": plain, "card": card}


def nan_for_null(value: Any) -> float:
    """A value of a result.json; NaN for null."""
    found = math.nan if value is None else float(value) if is_number(value) else math.inf
    if abs(found) > LARGEST:
        raise TypeError("not a number that can be compared")
    return found


def comparison_table(results: Sequence[str], row: list[tuple[str, list[Number]]]) -> Table:
    """A row per result, a column per metric that all sets of samples have, with differences from row 1.

    Raises:
        UserError: the results share no metric.
    """
    sets = [number.values for _, numbers in row for number in numbers]
    metrics = [m for m in sets[0] if not m.endswith("±") and all(m in values for values in sets)]
    if not metrics:
        raise UserError(f"task.results share no metric of {row[0][0]}: measure all with the same metric=NAME")
    base = {metric: fmean(n.values[metric] for n in row[0][1]) for metric in metrics}
    lines = []
    for path, (name, numbers) in zip(results, row, strict=True):
        cells = [difference_cell([n.values[metric] for n in numbers], base[metric]) for metric in metrics]
        lines.append([path, name, *cells])
    return Table(["result", "sampler", *metrics], lines)


def difference_cell(values: Sequence[float], base: float) -> str:
    """A cell "mean ± standard deviation (difference from the base)"."""
    mean = fmean(values)
    spread = f" ± {stdev(values):.2g}" if len(values) > 1 and not math.isnan(mean) else ""
    away = f" ({mean - base:+.3g})" if mean != base else ""
    return f"{mean:.4g}{spread}{away}"
