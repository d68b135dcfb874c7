"""The curves of a run, from its log for TensorBoard, else from its CSV log."""

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

MOST = 48  # charts of a page, and curves of a chart; a log may hold any number of names
POINTS = 1000  # of a curve that are drawn
CHAOS = 1000.0  # times the median of a chart: what lies beyond is of a run that diverges

Curve = tuple[list[int], list[float]]  # steps, values


def read_curves(run: Path) -> dict[str, Curve]:
    """All curves of a run by name; none where it has left neither of the two logs in its directory.

    Args:
        run: its directory.

    Raises:
        UserError: a log is damaged.
        OSError: it cannot be read, or something in it is no file.
    """
    return scalars(run / "tensorboard") or read_csv_log(run / "csv" / "metrics.csv")


def read_csv_log(path: Path) -> dict[str, Curve]:
    """All curves of a CSV log by name; none where there is no log. Raises what `scalars` does."""
    found: dict[str, Curve] = {}
    for step, values in read_steps(path)[1].items():
        for name, value in values.items():
            steps, points = found.setdefault(name, ([], []))
            steps.append(step)
            points.append(value)
    return found


def scalars(directory: Path) -> dict[str, Curve]:
    """All curves of a log for TensorBoard by name; none where there is no log.

    Raises:
        UserError: it is damaged.
        OSError: it cannot be read, or something in it is no file.
    """
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
        points = {event.step: event.value for event in events.Scalars(name)}  # of resumed runs, the last
        found[name] = (list(points), list(points.values()))
    return found


def curve_families(curves: dict[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves that are drawn together: those of a metric, by the rest of their names."""
    found: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        family, _, member = name.rpartition("/")
        alone = family in ("train", "curriculum", "")
        found.setdefault(name if alone else family, {})[member] = curve
    return {name: some for name, some in found.items() if any(len(steps) > 1 for steps, _ in some.values())}


def charts(curves: dict[str, Curve]) -> tuple[list[Picture], list[str]]:
    """The first charts of a log, and a line for what is left out."""
    found = curve_families(curves)
    pictures = [
        draw_curves(name, dict(islice(some.items(), MOST))) for name, some in islice(found.items(), MOST)
    ]
    notes = [f"{MOST} of {len(found)} charts are drawn."] if len(found) > MOST else []
    crowded = [name for name, some in islice(found.items(), MOST) if len(some) > MOST]
    return pictures, notes + [f"{name}: {MOST} of {len(found[name])} curves are drawn." for name in crowded]


def draw_curves(name: str, curves: dict[str, Curve]) -> Picture:
    """A small chart; logarithmic where all is positive and spans a factor of ten."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    for member, (steps, values) in curves.items():
        axes.plot(*thinned((steps, values)), linewidth=1.2, label=member)
    curve_scale(axes, [value for _, values in curves.values() for value in values])
    axes.set_xlabel("step")
    axes.grid(linewidth=0.3, alpha=0.6)
    if 1 < len(curves) <= 6:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)  # a name may hold $
    return Picture(svg(figure), "image/svg+xml", name)


def thinned(curve: Curve) -> Curve:
    """Evenly spaced points of a long curve, the last among them."""
    steps, values = curve
    every = -(-len(steps) // POINTS)
    return steps[::-every][::-1], values[::-every][::-1]


def curve_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Logarithmic where all is positive and spans a factor of ten, or a curve leaves the others behind."""
    finite = [value for value in values if isfinite(value)]
    usual = median(map(abs, finite)) if finite else 0.0
    if finite and min(finite) > 0 and max(finite) > 10 * min(finite):
        axes.set_yscale("log")
    elif usual and max(map(abs, finite)) > CHAOS * usual:
        axes.set_yscale("symlog", linthresh=usual)


def svg(figure: object) -> bytes:
    """A figure as an SVG file, the same for the same content."""
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return out.getvalue()
