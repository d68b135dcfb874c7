"""A chart of methods: every seed is a dot, every mean a stroke, and the floor a line."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from consistency.sweep.rows import (
    ONE_STEP,
    RMSE,
    RMSE_MEAN,
    TWO_STEPS,
    Column,
    MethodRow,
    problems,
    row_floor,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, RED, GREY = "#2f6ca3", "#b03a2e", "#888888"
INCHES = 0.3  # of height for a method; a heading and an axis take as much as three


@dataclass(frozen=True)
class Series:
    """A column as dots.

    Args:
        column: whose numbers.
        color: of dots and means.
        face: inside of the dots.
        label: in the legend.
    """

    column: Column
    color: str
    face: str
    label: str


@dataclass(frozen=True)
class Panel:
    """Series that share an axis, and a floor.

    Args:
        title: above.
        series: what is drawn.
    """

    title: str
    series: tuple[Series, ...]


PANELS = (
    Panel("RMSE to the exact f at σ_max", (Series(RMSE, BLUE, BLUE, "a seed"),)),
    Panel("the same, mean over σ", (Series(RMSE_MEAN, BLUE, BLUE, "a seed"),)),
    Panel(
        "sliced W2 of samples",
        (Series(ONE_STEP, RED, RED, "one step"), Series(TWO_STEPS, RED, "none", "two steps")),
    ),
)


def method_chart(rows: Sequence[MethodRow]) -> "Figure":
    """A line of panels for every problem."""
    from matplotlib.figure import Figure

    groups = problems(rows)
    heights = [len(group) + 3 for group in groups.values()]
    figure = Figure(figsize=(11, INCHES * (sum(heights) + 1)), layout="constrained")
    grid = figure.subplots(len(groups), len(PANELS), squeeze=False, sharey="row", height_ratios=heights)
    for (problem, group), line in zip(groups.items(), grid, strict=True):
        line[0].set(ylabel=problem, ylim=(len(group) - 0.5, -0.5))  # the first on top
        line[0].set_yticks(range(len(group)), [row.method for row in group])
        for panel, axes in zip(PANELS, line, strict=True):
            draw_panel(axes, panel, group)
    drawn = {
        label: dot for axes in grid.flat for dot, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        drawn.values(), drawn.keys(), loc="outside lower center", ncols=len(drawn) or 1, frameon=False
    )
    return figure


def draw_panel(axes: "Axes", panel: Panel, rows: Sequence[MethodRow]) -> None:
    """One panel; a method without numbers says so."""
    axes.set_title(panel.title, fontsize="medium")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    for place, row in enumerate(rows):
        if not any(row.values(series.column) for series in panel.series):
            axes.text(0.5, place, "no result", transform=axes.get_yaxis_transform(), ha="center", va="center")
    numbers = [value for series in panel.series for value in draw_dots(axes, series, rows)]
    lowest = row_floor(rows, panel.series[0].column)
    if lowest:
        axes.axvline(lowest, color=GREY, linestyle="--", label="floor")
    if numbers:
        log_scale(axes, min(lowest or min(numbers), *numbers), max(numbers))


def draw_dots(axes: "Axes", series: Series, rows: Sequence[MethodRow]) -> list[float]:
    """Every seed, and a stroke through the mean of a method; the numbers, wherever they are drawn."""
    found = [(place, values) for place, row in enumerate(rows) if (values := row.values(series.column))]
    numbers = [value for _, values in found for value in values]
    places = [place for place, values in found for _ in values]
    axes.scatter(numbers, places, s=24, facecolors=series.face, edgecolors=series.color, label=series.label)
    means = [fmean(values) for _, values in found]
    axes.scatter(means, [place for place, _ in found], s=180, marker="|", color=series.color, linewidths=1)
    return numbers


def log_scale(axes: "Axes", low: float, high: float) -> None:
    """A logarithmic axis with at least one of 1, 2 and 5 on it."""
    from matplotlib.ticker import LogLocator, NullLocator

    axes.set(xscale="log", xlim=(0.6 * low, 1.6 * high))
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
