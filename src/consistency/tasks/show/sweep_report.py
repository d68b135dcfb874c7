"""The report of a sweep: table, curves and samples of its runs on one page."""

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from consistency.data.decoding import decoded
from consistency.data.images import check_file_size
from consistency.errors import strip_controls
from consistency.files.atomic import write_text
from consistency.files.paths import is_name, regular
from consistency.metrics.processes import rank
from consistency.result import versions_and_commit
from consistency.sweep.runs import Run, RunState, runs_of
from consistency.sweep.table import overview, shared_overrides
from consistency.sweep.work import count_states
from consistency.table import Table
from consistency.tasks.session import Outcome
from consistency.tasks.show.page import Picture, Section, html_page
from consistency.tasks.show.sweep_curves import curves_section

MOST = 48  # largest number of pictures
LONGEST = 160  # characters of a text from a file
SIDE = 480  # largest side of a picture, in pixels
FEW = 6  # up to this number, reasons are visible at first
LOWER = {"FD", "FID", "KID", "LPIPS", "SW2", "gap", "oracle_rmse", "oracle_rmse_mean"}
HIGHER = {"IS", "precision", "recall", "density", "coverage"}
FACTS = ("device", "precision", "commit", "versions")


def sweep_report(sweep: Path, directory: Path) -> Outcome:
    """Write `report.html` for a sweep from the files of its runs, without measuring anything.

    Args:
        sweep: directory of the sweep.
        directory: folder for the page.

    Raises:
        UserError: the description or the result of a run is damaged.
    """
    runs = runs_of(sweep)
    path = directory / "report.html"
    table = mark_best(overview(runs, shared_overrides(runs)), runs)
    if rank() == 0:
        write_text(
            path, html_page(page_title(runs, sweep), sweep_notes(runs, sweep), sweep_sections(runs, table))
        )
    return Outcome(paths={"page": str(path)}, tables=[table])


def page_title(runs: Sequence[Run], sweep: Path) -> str:
    """The common recipe of the runs, or else the name of the directory, with the number of runs."""
    names = list(dict.fromkeys(run.recipe for run in runs))
    what = names[0] if len(names) == 1 and names[0] else sweep.resolve().name
    return short_text(f"{what}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}")


def sweep_notes(runs: Sequence[Run], sweep: Path) -> list[str]:
    """Notes on directory and progress of the sweep, and on the overrides that all runs share."""
    common = shared_overrides(runs)
    return [f"{sweep}, {count_states(runs)}", *([f"All with {' '.join(common)}"] if common else [])]


def sweep_sections(runs: Sequence[Run], table: Table) -> list[Section]:
    """The sections of the page that have content."""
    texts = run_labels(runs)
    reasons = [short_text(f"Run {run.name}, {run.state}: {run.reason}", 600) for run in runs if run.reason]
    few = len(reasons) <= FEW
    found = [
        Section("Runs", tables=[table], asides=reasons, fold=f"reasons ({len(reasons)})", unfolded=few),
        curves_section(runs, texts),
        samples_section(runs, texts),
        environment_section(runs),
    ]
    return [section for section in found if section is not None]


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A label per run: its name, the overrides that not all share, and its state unless it has finished."""
    common = shared_overrides(runs)
    found = []
    for run in runs:
        own = " ".join(each for each in run.overrides if each not in common)
        state = "" if run.state is RunState.FINISHED else f" ({run.state})"
        state += f" ({run.debug})" if run.debug else ""
        found.append(short_text(f"{run.name}: {own}") + state)
    return found


def mark_best(table: Table, runs: Sequence[Run]) -> Table:
    """The table of runs with "(best)" at the best value of each metric whose better direction is known."""
    rows = [list(row) for row in table.rows]
    for column, metric in enumerate(table.head):
        better = better_value(metric)
        values = {
            place: run.metrics[metric]
            for place, run in enumerate(runs)
            if run.state is RunState.FINISHED and run.debug is None and metric in run.metrics
        }
        if better is None or len(set(values.values())) < 2:
            continue
        best = better(values.values())
        for place in (place for place, value in values.items() if value == best):
            rows[place][column] += " (best)"
    return Table(table.head, rows)


def better_value(metric: str) -> Callable[..., float] | None:
    """`min` or `max`, the function that returns the better value of a metric; None if it is not known."""
    name = metric.partition("/")[0].partition("(")[0]
    if metric.endswith(("/floor", "±")) or name == "teacher":
        return None
    return min if name in LOWER else max if name in HIGHER else None


def samples_section(runs: Sequence[Run], texts: Sequence[str]) -> Section | None:
    """Samples of each run with its first sampler; None if no run has any."""
    pictures, notes, without = [], [], []
    for run, text in zip(runs, texts, strict=True):
        path = newest_picture(run)
        if path is None:
            without.append(run.name)
        elif len(pictures) < MOST:
            try:
                pictures.append(Picture(redraw_png(path), "image/png", text))
            except Exception as error:  # Pillow raises many types
                notes.append(
                    short_text(f"Run {run.name}: {path.name} is not an image that can be read ({error}).")
                )
    if not pictures and not notes:
        return None
    if without:
        notes.append(f"Without samples: {run_names(without)}.")
    if len(runs) - len(without) > MOST:
        notes.append(f"{MOST} of {len(runs) - len(without)} runs are shown.")
    return Section("Samples", notes, pictures, narrow=True)


def newest_picture(run: Run) -> Path | None:
    """The picture that the run's result names; without a result, the first one by file name."""
    folder = run.directory / "samples"
    paths = (run.result or {}).get("paths")
    recorded = paths.get("picture") if isinstance(paths, dict) else None
    name = Path(recorded).name if isinstance(recorded, str) else None
    if name is not None and is_name(name) and (folder / name).is_file():
        return folder / name
    return min(
        (path for path in folder.glob("*.png") if "-" not in path.stem and path.is_file()), default=None
    )


def redraw_png(path: Path) -> bytes:
    """The pixels of an image file as a new PNG without its metadata, at most `SIDE` wide and high.

    Raises:
        Exception: of many types, if the file is not an image.
    """
    check_file_size(regular(path).stat().st_size)
    image, out = decoded(path), BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def environment_section(runs: Sequence[Run]) -> Section:
    """Devices and versions of the runs and of this evaluation, with a note if the runs differ."""
    results = [(run.name, run.result) for run in runs if run.result is not None]
    here, rows, differing = versions_and_commit(), [], []
    for key in FACTS:
        by_value: dict[str, list[str]] = {}
        for name, result in results:
            by_value.setdefault(one_line_value(result.get(key)), []).append(name)
        if len(by_value) > 1:
            differing.append(key)
        trained = "; ".join(
            f"{value or 'not known'} ({run_names(names)})" if len(by_value) > 1 else value
            for value, names in by_value.items()
        )
        rows.append([key, trained, one_line_value(here.get(key))])
    notes = [f"The runs differ in {' and '.join(differing)}."] if differing else []
    return Section("Environment", notes, tables=[Table(["", "training", "this page"], rows)])


def run_names(names: Sequence[str]) -> str:
    """Names with the noun: `run A`, or `runs A, B`."""
    return short_text(f"{'run' if len(names) == 1 else 'runs'} {', '.join(names)}")


def one_line_value(value: Any) -> str:
    """A value of a file as one line of text."""
    if isinstance(value, dict):
        return short_text(", ".join(f"{name} {item}" for name, item in value.items()))
    return "" if value is None else short_text(str(value))


def short_text(text: str, most: int = LONGEST) -> str:
    """A text from a file without control characters, cut after `most` characters."""
    line = strip_controls(text)
    return line if len(line) <= most else f"{line[:most]}…"
