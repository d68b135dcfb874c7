"""What of a run is on disk, and how it goes on: a sentence for whoever was interrupted."""

from pathlib import Path

from consistency.files.checkpoints import newest
from consistency.process.lifeline import held
from consistency.quoting import path_argument


def saved_so_far(directory: Path, asked: Path) -> str:
    """Of a run that has not ended.

    Args:
        directory: the run's.
        asked: the one that the user works in; the run may be that of a teacher.
    """
    found = newest(directory) or newest(asked) or newest(asked / "teacher")
    kept = f"{found} is saved" if found else "no step was saved yet"
    return f"{kept}; {how_to_go_on(asked)}"


def how_to_go_on(asked: Path) -> str:
    """The command that goes on; a run of a sweep is gone on with by that."""
    if held():
        return "the sweep goes on with it"
    return f"go on with the same command, {path_argument('run_dir', asked)} and ckpt_path=last"


def measured_so_far(directory: Path) -> str:
    """Of an evaluation that has not ended."""
    place = path_argument("run_dir", directory)
    return f"what was measured is kept; the same command with {place} goes on from there"


def all_done(directory: Path) -> str:
    """Of a run or an evaluation that has its result."""
    return f"all was done, {directory / 'result.json'} is written"
