"""The curves of a run, read from its TensorBoard log, else from its CSV log, and drawn."""

from collections.abc import Sequence
from io import BytesIO
from itertools import islice
from math import isfinite
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from consistency.errors import UserError
from consistency.files.paths import regular
from consistency.files.steps import read_steps
from consistency.tasks.show.page import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 48  # largest number of charts on a page, and of curves in a chart
POINTS = 1000  # largest number of points of a curve that are drawn
DIVERGED = 1000.0  # multiple of a chart's median: larger values belong to a diverging run

Curve = tuple[list[int], list[float]]  # steps, values


def read_curves(run: Path) -> dict[str, Curve]:
    """All curves of a run by name; empty if its directory has neither of the two logs.

    Args:
        run: directory of the run.

    Raises:
        UserError: a log is damaged.
        OSError: a log cannot be read, or an entry of its folder is not a regular file.
    """
    return read_tensorboard_log(run / "tensorboard") or read_csv_log(run / "csv" / "metrics.csv")


def read_csv_log(path: Path) -> dict[str, Curve]:
    """All curves of a CSV log by name; empty if there is no log. Raises as `read_curves`."""
    found: dict[str, Curve] = {}
    for step, values in read_steps(path)[1].items():
        for name, value in values.items():
            steps, points = found.setdefault(name, ([], []))
            steps.append(step)
            points.append(value)
    return found


def read_tensorboard_log(directory: Path) -> dict[str, Curve]:
    """All curves of a TensorBoard log by name; empty if there is no log. Raises as `read_curves`."""
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not directory.is_dir():
        return {}
    for path in directory.rglob("*"):
        regular(path)
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    try:
        events.Reload()
    except DecodeError as error:
        raise UserError(f"{directory} holds a damaged file of events: move it elsewhere") from error
    found = {}
    for name in events.Tags()["scalars"]:
        points = {
            event.step: event.value for event in events.Scalars(name)
        }  # the last value of a repeated step
        found[name] = (list(points), list(points.values()))
    return found


def curve_families(curves: dict[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Groups of curves for one chart each: `metric/a` and `metric/b` share the chart `metric`.

    Training scalars have a chart each; groups in which no curve has two points are left out.
    """
    found: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        family, _, member = name.rpartition("/")
        alone = family in ("train", "curriculum", "")
        found.setdefault(name if alone else family, {})[member] = curve
    return {name: some for name, some in found.items() if any(len(steps) > 1 for steps, _ in some.values())}


def draw_charts(curves: dict[str, Curve]) -> tuple[list[Picture], list[str]]:
    """The first `MOST` charts of a log, and notes on the charts and curves left out."""
    found = curve_families(curves)
    pictures = [
        draw_curves(name, dict(islice(some.items(), MOST))) for name, some in islice(found.items(), MOST)
    ]
    notes = [f"{MOST} of {len(found)} charts are drawn."] if len(found) > MOST else []
    crowded = [name for name, some in islice(found.items(), MOST) if len(some) > MOST]
    return pictures, notes + [f"{name}: {MOST} of {len(found[name])} curves are drawn." for name in crowded]


def draw_curves(name: str, curves: dict[str, Curve]) -> Picture:
    """A small chart of curves, by their names in the legend.

    Args:
        name: the caption.
        curves: at least one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    for member, (steps, values) in curves.items():
        axes.plot(*thin_curve((steps, values)), linewidth=1.2, label=member)
    set_scale(axes, [value for _, values in curves.values() for value in values])
    axes.set_xlabel("step")
    axes.grid(linewidth=0.3, alpha=0.6)
    if 1 < len(curves) <= 6:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)  # a name may hold $
    return Picture(render_svg(figure), "image/svg+xml", name)


def thin_curve(curve: Curve) -> Curve:
    """At most `POINTS` evenly spaced points of a curve, the last one included."""
    steps, values = curve
    every = -(-len(steps) // POINTS)
    return steps[::-every][::-1], values[::-every][::-1]


def set_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Set the y axis: logarithmic if values are positive and span a factor of ten; symlog for outliers."""
    finite = [value for value in values if isfinite(value)]
    usual = median(map(abs, finite)) if finite else 0.0
    if finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale("log")
    elif usual and max(map(abs, finite)) > DIVERGED * usual:
        axes.set_yscale("symlog", linthresh=usual)


def render_svg(figure: object) -> bytes:
    """A figure as the bytes of an SVG file without a date, so that equal figures give equal bytes."""
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return out.getvalue()
