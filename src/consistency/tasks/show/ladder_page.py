"""The results of a ladder as a table and as a chart."""

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from consistency.metrics.card import Number, plausible
from consistency.table import Table
from consistency.tasks.show.card_tables import card_tables, card_text

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

COLORS = ("#2f6ca3", "#b03a2e", "#5b8c5a", "#8a6d3b", "#6b5b95")


class Speed(NamedTuple):
    """The speed of a sampler."""

    latency: float  # seconds for one sample at batch size 1
    throughput: float  # samples per second
    batch: int  # batch size with this throughput


def is_speed(found: Any) -> bool:
    """Whether a value read from disk is a `Speed` as plain data."""
    times = plausible(found, Speed._fields) and len(found) == len(Speed._fields)
    return times and all(found[name] > 0 for name in found) and type(found["batch"]) is int


class Rung(NamedTuple):
    """The measurements of one sampler."""

    series: str  # legend entry of its line in the chart
    name: str
    how: dict[str, Any]  # `describe_sampler`: sampler, nfe, sigmas
    number: Number
    speed: Speed


def ladder_tables(metric: str, rungs: Sequence[Rung]) -> list[Table]:
    """A table with a row per rung, and the tables of the first rung's card."""
    head = ["", "calls", "σ", metric, "ms for one image", "images a second", "at batch"]
    rows = [rung_cells(metric, rung) for rung in rungs]
    floor = rungs[0].number.values.get(f"{metric}/floor")
    if floor is not None:
        rows.append(["floor", "", "", f"{floor:.4g}", "", "", ""])
    title = f"{rungs[0].number.card.protocol['count']:,} samples of each sampler"
    return [Table(head, rows, title), *card_tables({rungs[0].name: rungs[0].number.card})]


def rung_cells(metric: str, rung: Rung) -> list[str]:
    """The row of a rung; a σ list with more than eight levels is replaced by their number."""
    sigmas = rung.how["sigmas"]
    levels = card_text(sigmas) if len(sigmas) <= 8 else f"{len(sigmas)} levels"
    latency, rate = f"{1000 * rung.speed.latency:.3g}", f"{rung.speed.throughput:,.0f}"
    value = f"{rung.number.values[metric]:.4g}"
    return [rung.name, str(rung.how["nfe"]), levels, value, latency, rate, str(rung.speed.batch)]


def ladder_chart(metric: str, rungs: Sequence[Rung]) -> "Figure":
    """The metric against the number of calls, and against the latency; a line per series."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    calls, cost = figure.subplots(1, 2, sharey=True)
    by_series: dict[str, list[Rung]] = {}
    for rung in rungs:
        by_series.setdefault(rung.series, []).append(rung)
    for (series, some), color in zip(by_series.items(), COLORS * len(by_series), strict=False):
        some.sort(key=lambda rung: rung.how["nfe"])
        y = [rung.number.values[metric] for rung in some]
        style = {"color": color, "marker": "o", "markersize": 4, "linewidth": 1.3, "label": series}
        calls.plot([rung.how["nfe"] for rung in some], y, **style)
        cost.plot([1000 * rung.speed.latency for rung in some], y, **style)
    floor = rungs[0].number.values.get(f"{metric}/floor")
    for axes, label in ((calls, "network calls"), (cost, "ms for one image")):
        if floor is not None:
            axes.axhline(floor, color="#888888", linewidth=0.8, linestyle=":", label="floor")
        axes.set(xscale="log", xlabel=label)
        axes.grid(which="both", linewidth=0.3, alpha=0.5)
    if max(r.number.values[metric] for r in rungs) > 10 * min(r.number.values[metric] for r in rungs):
        calls.set_yscale("log")  # both charts share the axis
    else:
        calls.set_ylim(bottom=0)
    costs = [1000 * rung.speed.latency for rung in rungs]
    few_plain_ticks(cost.xaxis, costs)
    if calls.get_yscale() == "log":
        few_plain_ticks(calls.yaxis, [rung.number.values[metric] for rung in rungs])
    counts = sorted({rung.how["nfe"] for rung in rungs})
    calls.set_xticks(counts, [str(n) for n in counts])
    calls.tick_params(axis="x", which="minor", bottom=False)
    calls.set_ylabel(metric)
    calls.legend(frameon=False)
    return figure


def few_plain_ticks(axis: "Axis", values: Sequence[float]) -> None:
    """Label a logarithmic axis with few decimal numbers: 0.5, 1, 2, 5 and so on, or powers of ten.

    Args:
        axis: the axis to label.
        values: all values on it.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    span = max(values) / min(values) if min(values) > 0 else inf
    subs = (1.0,) if span > 100 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs) if span > 5 else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
