"""The curves of a run, from its TensorBoard log."""

from io import BytesIO
from itertools import islice
from pathlib import Path

from consistency.files.paths import regular
from consistency.tasks.page import Picture

MOST = 48  # charts of a page, and curves of a chart; a log may hold any number of names

Curve = tuple[list[int], list[float]]  # steps, values


def scalars(directory: Path) -> dict[str, Curve]:
    """All curves of a log by name; none where there is no log."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    if not directory.is_dir():
        return {}
    for path in directory.rglob("*"):
        regular(path)
    events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    events.Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        points = {event.step: event.value for event in events.Scalars(name)}  # of resumed runs, the last
        found[name] = (list(points), list(points.values()))
    return found


def families(curves: dict[str, Curve]) -> dict[str, dict[str, Curve]]:
    """Curves that are drawn together: those of a metric, by the rest of their names."""
    found: dict[str, dict[str, Curve]] = {}
    for name, curve in curves.items():
        family, _, member = name.rpartition("/")
        alone = family in ("train", "curriculum", "")
        found.setdefault(name if alone else family, {})[member] = curve
    return {name: some for name, some in found.items() if any(len(steps) > 1 for steps, _ in some.values())}


def charts(curves: dict[str, Curve]) -> tuple[list[Picture], list[str]]:
    """The first charts of a log, and a line for what is left out."""
    found = families(curves)
    pictures = [drawn(name, dict(islice(some.items(), MOST))) for name, some in islice(found.items(), MOST)]
    notes = [f"{MOST} of {len(found)} charts are drawn."] if len(found) > MOST else []
    crowded = [name for name, some in islice(found.items(), MOST) if len(some) > MOST]
    return pictures, notes + [f"{name}: {MOST} of {len(found[name])} curves are drawn." for name in crowded]


def drawn(name: str, curves: dict[str, Curve]) -> Picture:
    """A small chart; logarithmic where all is positive and spans a factor of ten."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    for member, (steps, values) in curves.items():
        axes.plot(steps, values, linewidth=1.2, label=member)
    everything = [value for _, values in curves.values() for value in values]
    if min(everything) > 0 and max(everything) > 10 * min(everything):
        axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.grid(linewidth=0.3, alpha=0.6)
    if 1 < len(curves) <= 6:
        for text in axes.legend(frameon=False, fontsize=8).get_texts():
            text.set_parse_math(False)  # a name may hold $
    return Picture(svg(figure), "image/svg+xml", name)


def svg(figure: object) -> bytes:
    """A figure as an SVG file, the same for the same content."""
    out = BytesIO()
    figure.savefig(out, format="svg", metadata={"Date": None})  # type: ignore[attr-defined]
    return out.getvalue()
