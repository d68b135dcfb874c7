"""All that is known of a sweep, on one page: its runs beside each other."""

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
from consistency.tasks.show.sweep_curves import curves_of

MOST = 48  # pictures
LONGEST = 160  # characters of what a file says
SIDE = 480  # pixels of a picture
FEW = 6  # reasons that are open at first
LOWER = {"FD", "FID", "KID", "LPIPS", "SW2", "gap", "oracle_rmse", "oracle_rmse_mean"}
HIGHER = {"IS", "precision", "recall", "density", "coverage"}
FACTS = ("device", "precision", "commit", "versions")


def sweep_report(sweep: Path, directory: Path) -> Outcome:
    """`report.html` of a sweep, from what its runs have left; nothing is measured.

    Args:
        sweep: directory of the sweep.
        directory: where the page goes.

    Raises:
        UserError: a file that says what a run is, or what has come of it, is damaged.
    """
    runs = runs_of(sweep)
    path = directory / "report.html"
    table = marked(overview(runs, shared_overrides(runs)), runs)
    if rank() == 0:
        write_text(
            path, html_page(title(runs, sweep), section_of_sweep(runs, sweep), sweep_sections(runs, table))
        )
    return Outcome(paths={"page": str(path)}, tables=[table])


def title(runs: Sequence[Run], sweep: Path) -> str:
    """What is swept over, or the name of the directory."""
    names = list(dict.fromkeys(run.recipe for run in runs))
    what = names[0] if len(names) == 1 and names[0] else sweep.resolve().name
    return short_text(f"{what}: {len(runs)} {'run' if len(runs) == 1 else 'runs'}")


def section_of_sweep(runs: Sequence[Run], sweep: Path) -> list[str]:
    """Where the sweep is, how far, and what all runs have in common."""
    common = shared_overrides(runs)
    return [f"{sweep}, {count_states(runs)}", *([f"All with {' '.join(common)}"] if common else [])]


def sweep_sections(runs: Sequence[Run], table: Table) -> list[Section]:
    """The page below its head."""
    texts = labels(runs)
    reasons = [short_text(f"Run {run.name}, {run.state}: {run.reason}", 600) for run in runs if run.reason]
    few = len(reasons) <= FEW
    found = [
        Section("Runs", tables=[table], asides=reasons, fold=f"reasons ({len(reasons)})", unfolded=few),
        curves_of(runs, texts),
        samples_of(runs, texts),
        section_of_hardware(runs),
    ]
    return [section for section in found if section is not None]


def labels(runs: Sequence[Run]) -> list[str]:
    """Each run by its name, what other runs do not have, and its state unless it has finished."""
    common = shared_overrides(runs)
    found = []
    for run in runs:
        own = " ".join(each for each in run.overrides if each not in common)
        state = "" if run.state is RunState.FINISHED else f" ({run.state})"
        state += f" ({run.debug})" if run.debug else ""
        found.append(short_text(f"{run.name}: {own}") + state)
    return found


def marked(table: Table, runs: Sequence[Run]) -> Table:
    """The same with the best value of each metric of which it is known what is better."""
    rows = [list(row) for row in table.rows]
    for column, metric in enumerate(table.head):
        better = direction(metric)
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


def direction(metric: str) -> Callable[..., float] | None:
    """Which of two values of a metric is better; None where neither is, or it is not known."""
    name = metric.partition("/")[0].partition("(")[0]
    if metric.endswith(("/floor", "±")) or name == "teacher":
        return None
    return min if name in LOWER else max if name in HIGHER else None


def samples_of(runs: Sequence[Run], texts: Sequence[str]) -> Section | None:
    """The samples of the first sampler of each run; None where there are none at all."""
    pictures, notes, without = [], [], []
    for run, text in zip(runs, texts, strict=True):
        path = picture_of(run)
        if path is None:
            without.append(run.name)
        elif len(pictures) < MOST:
            try:
                pictures.append(Picture(redrawn(path), "image/png", text))
            except Exception as error:  # Pillow raises a dozen kinds
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


def picture_of(run: Run) -> Path | None:
    """The newest picture of the first sampler; of a run without a result, of the first by name."""
    folder = run.directory / "samples"
    paths = (run.result or {}).get("paths")
    said = paths.get("picture") if isinstance(paths, dict) else None
    name = Path(said).name if isinstance(said, str) else None
    if name is not None and is_name(name) and (folder / name).is_file():
        return folder / name
    return min(
        (path for path in folder.glob("*.png") if "-" not in path.stem and path.is_file()), default=None
    )


def redrawn(path: Path) -> bytes:
    """The pixels of an image file, and nothing else of it, at most `SIDE` wide and high, as PNG.

    Raises:
        Exception: of a dozen kinds, where there is no image.
    """
    check_file_size(regular(path).stat().st_size)
    image, out = decoded(path), BytesIO()
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.convert("RGB").save(out, "PNG", optimize=True)
    return out.getvalue()


def section_of_hardware(runs: Sequence[Run]) -> Section:
    """On what the runs were made, and whether that differs between them."""
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
    """Runs by their names."""
    return short_text(f"{'run' if len(names) == 1 else 'runs'} {', '.join(names)}")


def one_line_value(value: Any) -> str:
    """A value of a file on one line."""
    if isinstance(value, dict):
        return short_text(", ".join(f"{name} {item}" for name, item in value.items()))
    return "" if value is None else short_text(str(value))


def short_text(text: str, most: int = LONGEST) -> str:
    """Text that a file chose, on one line, and not endless."""
    shown = strip_controls(text)
    return shown if len(shown) <= most else f"{shown[:most]}…"
