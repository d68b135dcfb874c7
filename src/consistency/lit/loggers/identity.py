"""Loggers that send points to a service, and the id of the run there, which a file of the run keeps.

A run that starts anew, in an emptied directory or not, gets a new id and continues no other run.
"""

import re
import secrets
from collections.abc import Callable
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from consistency.errors import UserError
from consistency.files.atomic import write_text
from consistency.files.owned import check_inside, check_own
from consistency.files.paths import printable_path
from consistency.lit.loggers.base import Positions, RunLogger

FILE = "run_id"
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LARGEST = 100  # bytes of the file
SWEPT = "overrides.json"  # a file that sweeps write to the directory of each of their runs


class RunId:
    """The id of a run, kept in the file `FOLDER/run_id` of its directory.

    Args:
        directory: of the run.
        folder: of the logger in that directory.
        made: () -> the id of a new run.
    """

    def __init__(
        self, directory: Path, folder: str, made: Callable[[], str] = lambda: secrets.token_hex(4)
    ) -> None:
        self.directory, self.folder, self.made = directory, folder, made
        self.path = directory / folder / FILE
        self.anew = False

    def known(self) -> str | None:
        """The id of a run that is continued; None for a new run.

        Raises:
            UserError: the folder is a link that leads out of the run, or the file holds no id.
        """
        check_inside(self.directory, [self.folder])
        check_own(self.path)
        if self.anew or not self.path.is_file():
            return None
        with self.path.open("rb") as file:
            text = file.read(LARGEST).decode("utf-8", "replace").strip()
        if not ID.fullmatch(text):
            raise UserError(
                f"{self.path} holds no id of a run ({printable_path(text)}): delete it to log as a new run"
            )
        return text

    def keep(self, known: str) -> None:
        """Write the id of the run to its file."""
        write_text(self.path, f"{known}\n")
        self.anew = False

    def take(self) -> str:
        """The id of the run; a new one is made and written where there is none."""
        known = self.known()
        if known is None:
            known = self.made()
            self.keep(known)
        return known


class Tracker(RunLogger):
    """A logger whose points cannot be removed once they are sent; a resumed run continues the same log."""

    kept: RunId

    def positions(self, step: int) -> Positions:
        """The step, which notes that this logger was in use."""
        return {self.label: step}

    def rewind(self, positions: Positions, step: int) -> Callable[[], None]:
        """Continue the log of the directory's run, or start a new one for a new run."""
        self.kept.anew = not step and self.label not in positions
        return lambda: None

    @rank_zero_only
    def finalize(self, status: str = "success") -> None:
        """Close the log of a run that has failed. `end_row` closes that of any other, which may log more."""
        if status == "failed":
            self.end_row(failed=True)


def sweep_of(directory: Path) -> str | None:
    """The name of the sweep that a run belongs to; None for a single run."""
    return directory.absolute().parent.name if (directory / SWEPT).is_file() else None
