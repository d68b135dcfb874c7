"""The paths of the checkpoints in a run directory; no file is read."""

from pathlib import Path

LAST = Path("checkpoints") / "last.ckpt"
GOOD, BEST = "good.ckpt", "best.ckpt"  # beside it


def newest(directory: str | Path) -> Path | None:
    """The newest checkpoint of a run directory, which may be damaged, or None where there is none."""
    last, folder = Path(directory) / LAST, Path(directory) / LAST.parent
    named = [path for path in (folder / GOOD, folder / BEST) if path.is_file()]
    return last if last.is_file() else next(iter([*numbered(folder), *named]), None)


def numbered(folder: Path) -> list[Path]:
    """`step=….ckpt`, the highest step first."""
    found = [path for path in folder.glob("step=*.ckpt") if number_of(path) >= 0]
    return sorted(found, key=number_of, reverse=True)


def number_of(path: Path) -> int:
    """The step in the name of a numbered checkpoint; -1 where there is none."""
    digits = path.stem.removeprefix("step=")
    return int(digits) if digits.isascii() and digits.isdigit() else -1


def set_aside(folder: Path, step: int) -> None:
    """Rename the numbered checkpoints of steps that are rolled back, so that no run resumes from them.

    `step=N.ckpt` becomes `undone_step=N.ckpt`; the run writes `step=N.ckpt` anew when it reaches the step.
    """
    for path in numbered(folder):
        if number_of(path) > step:
            path.replace(path.with_name(f"undone_{path.name}"))
