"""task=fidelity: distances of a checkpoint's samples from its data, with the protocol of every number."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from consistency.errors import within
from consistency.files.atomic import write_text
from consistency.metrics.card import Number
from consistency.metrics.processes import rank
from consistency.table import Table, tables_markdown
from consistency.tasks.requests import check_samples, judge_samples
from consistency.tasks.schedules import distinct_name
from consistency.tasks.session import Outcome, Session
from consistency.tasks.show.card_tables import card_tables


@dataclass(frozen=True)
class Fidelity:
    """Computes all scores of the metric in the checkpoint's config, for every sampler.

    Args:
        count: number of samples; published FIDs use 50,000.
        batch: samples per network call.
        seed: of the samples' noise; repeat i uses seed + i.
        repeats: number of sets of samples.
    """

    count: int = 50_000
    batch: int = 500
    seed: int = 0
    repeats: int = 1

    def __post_init__(self) -> None:
        check_samples(self.count, self.batch, self.seed)
        within("task", 1, 1000, repeats=self.repeats)

    def __call__(self, session: Session) -> Outcome:
        """Means over the repeats as metrics, each set of samples as a number; writes `fidelity.md`."""
        judge, samplers = session.trained.judge.thorough(), session.trained.samplers
        found = {
            distinct_name(session.trained.own, name, sampler): [
                judge_samples(session, judge, sampler, self.count, self.batch, self.seed + i, name)
                for i in range(self.repeats)
            ]
            for name, sampler in samplers.items()
        }
        path = session.directory / "fidelity.md"
        tables = fidelity_tables(found)
        if rank() == 0:
            write_text(path, tables_markdown(tables))
        return Outcome(
            metrics=mean_numbers(found),
            paths={"table": str(path)},
            images=self.count * self.repeats * len(samplers),
            numbers=[number.to_plain(name) for name, numbers in found.items() for number in numbers],
            tables=tables,
            printed=1,  # the cards are in the file only
        )


def mean_numbers(found: dict[str, list[Number]]) -> dict[str, float]:
    """Mean of every number over the sets of samples, by `metric/sampler`; the floor, by `metric/floor`.

    Args:
        found: numbers by sampler, one for each set of samples.
    """
    values: dict[str, float] = {}
    for name, numbers in found.items():
        for metric in shared_metrics(numbers):
            full = metric if metric.endswith("/floor") else f"{metric}/{name}"
            values[full] = fmean(number.values[metric] for number in numbers)
    return values


def shared_metrics(numbers: Sequence[Number]) -> list[str]:
    """Names of the metrics that every set of samples has."""
    first, *others = (number.values for number in numbers)
    return [metric for metric in first if all(metric in values for values in others)]


def fidelity_tables(found: dict[str, list[Number]]) -> list[Table]:
    """A table with a row per sampler and a column per metric, and the tables of their cards.

    Args:
        found: numbers by sampler, one for each set of samples.
    """
    first = next(iter(found.values()))[0].values
    metrics = [metric for metric in first if not metric.endswith(("±", "/floor"))]
    floors = {metric.removesuffix("/floor"): v for metric, v in first.items() if metric.endswith("/floor")}
    rows = [
        [
            name,
            str(numbers[0].card.protocol["nfe"]),
            *(spread_cell([number.values for number in numbers], metric) for metric in metrics),
        ]
        for name, numbers in found.items()
    ]
    rows.append(["floor", "", *(f"{floors[m]:.4g}" if m in floors else "" for m in metrics)])
    numbers = next(iter(found.values()))
    each = f"{numbers[0].card.protocol['count']:,} samples"
    many = f"Mean ± standard deviation of {len(numbers)} sets of samples, {each} each"
    title = f"{each} of each sampler" if len(numbers) == 1 else many
    cards = {name: numbers[0].card for name, numbers in found.items()}
    return [Table(["", "calls", *metrics], rows, title), *card_tables(cards)]


def spread_cell(values: Sequence[dict[str, float]], metric: str) -> str:
    """Mean ± standard deviation over the sets of samples; for one set, over the metric's own subsets."""
    known = [value[metric] for value in values if metric in value]
    if not known:
        return "–"
    spread = stdev(known) if len(known) > 1 else values[0].get(f"{metric} ±")
    return f"{fmean(known):.4g}" + ("" if spread is None else f" ± {spread:.2g}")
