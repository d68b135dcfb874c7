"""Lines for a user whose command was interrupted: what is saved on disk, and how to resume."""

from pathlib import Path

from consistency.files.checkpoints import newest
from consistency.process.lifeline import is_sweep_run
from consistency.quoting import path_argument


def training_progress(directory: Path, user_directory: Path) -> str:
    """The line for a training run that has not ended.

    Args:
        directory: of the run.
        user_directory: the run directory that the user gave; the run may be that of its teacher.
    """
    found = newest(directory) or newest(user_directory) or newest(user_directory / "teacher")
    saved = f"{found} is saved" if found else "no step was saved yet"
    return f"{saved}; {resume_instruction(user_directory)}"


def resume_instruction(user_directory: Path) -> str:
    """How to resume the run; one of a sweep is resumed by the sweep."""
    if is_sweep_run():
        return "the sweep goes on with it"
    return f"go on with the same command, {path_argument('run_dir', user_directory)} and ckpt_path=last"


def evaluation_progress(directory: Path) -> str:
    """The line for an evaluation that has not ended."""
    place = path_argument("run_dir", directory)
    return f"what was measured is kept; the same command with {place} goes on from there"


def completion_line(directory: Path) -> str:
    """The line for a run or an evaluation whose result is written."""
    return f"all was done, {directory / 'result.json'} is written"
