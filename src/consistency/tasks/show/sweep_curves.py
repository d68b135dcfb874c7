"""The curves of the runs of a sweep: a chart for each scalar, a line for each run."""

from collections.abc import Mapping, Sequence
from itertools import islice

from consistency.errors import UserError, strip_controls
from consistency.sweep.runs import Run
from consistency.tasks.show.curves import MOST, Curve, read_curves, render_svg, set_scale, thin_curve
from consistency.tasks.show.page import Line, Picture, Section

LOSS = "train/loss"
INTERNAL = {
    "curriculum",
    "epoch",
    "guard",
    "loss_by_sigma",
    "train",
}  # groups of scalars that are not outcomes
STYLES = ("solid", "dashed", "dotted")
FEW = 10  # up to this number, lines differ in colour alone

Curves = dict[str, Curve]  # by the name of the scalar


def curves_section(runs: Sequence[Run], texts: Sequence[str]) -> Section | None:
    """The first `MOST` charts of a sweep with one legend; None if no run has logged a curve.

    Args:
        runs: of the sweep.
        texts: label of each run in the legend.
    """
    found, notes = read_logs(runs)
    lines = [Line(*look, text) for look, text in zip(line_styles(len(runs)), texts, strict=True)]
    names = {name for curves in found.values() for name in curves if is_outcome(name)}
    names = sorted((name for name in names if has_changes(name, found)), key=loss_last)
    pictures = [scalar_chart(name, found, lines) for name in names[:MOST]]
    drawn = [line for place, line in enumerate(lines) if found.get(place, {}).keys() & {*names[:MOST]}]
    if not pictures:
        return Section("Curves", notes) if notes else None
    if len(names) > MOST:
        notes.append(f"{MOST} of {len(names)} charts are drawn.")
    if len(runs) > MOST:
        notes.append(f"Curves are drawn of the first {MOST} of {len(runs)} runs.")
    return Section("Curves", notes, pictures, legend=drawn)


def read_logs(runs: Sequence[Run]) -> tuple[dict[int, Curves], list[str]]:
    """The curves of the first `MOST` runs by position, and a note for each missing or unreadable log."""
    found, notes = {}, []
    for place, run in enumerate(islice(runs, MOST)):
        try:
            found[place] = read_curves(run.directory)
            if run.result is not None and not found[place]:
                notes.append(strip_controls(f"Run {run.name} has no log in its directory."))
        except (UserError, OSError) as error:
            notes.append(strip_controls(f"No curves of run {run.name}: {error}"))
    return found, notes


def is_outcome(name: str) -> bool:
    """Whether a scalar measures the quality of a run: a metric other than a floor, or the training loss."""
    return name == LOSS or not (name.partition("/")[0] in INTERNAL or name.endswith("/floor"))


def has_changes(name: str, found: Mapping[int, Curves]) -> bool:
    """Whether a scalar has more than one value over all runs."""
    return len({value for curves in found.values() if name in curves for value in curves[name][1]}) > 1


def loss_last(name: str) -> tuple[bool, str]:
    """Sort key of charts: metrics by name, then the training loss."""
    return (name == LOSS, name)


def line_styles(count: int) -> list[tuple[str, str]]:
    """Colour and style of `count` lines; of more than `FEW`, neighbours differ in both."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    if count <= FEW:
        return [(to_hex(color), STYLES[0]) for color in colormaps["tab10"].colors[:count]]  # type: ignore[attr-defined]
    shades = colormaps["turbo"]
    return [(to_hex(shades(0.05 + 0.9 * i / (count - 1))), STYLES[i % len(STYLES)]) for i in range(count)]


def scalar_chart(name: str, found: Mapping[int, Curves], lines: Sequence[Line]) -> Picture:
    """The chart of one scalar with a line per run; a line has gaps where the scalar is not finite."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.2, 2.7), layout="constrained")
    axes = figure.subplots()
    for place, curves in found.items():
        if name in curves:
            steps, values = thin_curve(curves[name])
            dot = "." if len(steps) == 1 else None
            axes.plot(
                steps, values, linewidth=1.2, marker=dot, color=lines[place].color, ls=lines[place].style
            )
    set_scale(axes, [value for curves in found.values() if name in curves for value in curves[name][1]])
    axes.set_xlabel("step")
    axes.grid(linewidth=0.3, alpha=0.6)
    return Picture(render_svg(figure), "image/svg+xml", name)
