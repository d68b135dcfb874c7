"""Under which id a run is known to a logger outside its directory: kept in a file of the directory.

A run that begins anew, in an emptied directory or not, has a new id and continues no other.
"""

import re
import secrets
from collections.abc import Callable
from pathlib import Path

from consistency.errors import UserError
from consistency.files.atomic import write_text
from consistency.files.owned import check_inside, check_own
from consistency.files.paths import shown

FILE = "run_id"
ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
LARGEST = 100  # bytes of the file
SWEPT = "overrides.json"  # which a sweep leaves in the directory of each of its runs


class RunId:
    """The id of a run, in `FOLDER/run_id` of its directory.

    Args:
        directory: of the run.
        folder: of the logger in it.
        made: the id of a new run.
    """

    def __init__(
        self, directory: Path, folder: str, made: Callable[[], str] = lambda: secrets.token_hex(4)
    ) -> None:
        self.directory, self.folder, self.made = directory, folder, made
        self.path = directory / folder / FILE
        self.anew = False

    def known(self) -> str | None:
        """The id of the run that is continued; None for a new one.

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
                f"{self.path} holds no id of a run ({shown(text)}): delete it to log as a new run"
            )
        return text

    def keep(self, known: str) -> None:
        """Write an id down, from now on that of the run."""
        write_text(self.path, f"{known}\n")
        self.anew = False

    def take(self) -> str:
        """The id of the run that is continued, else a new one, which is kept."""
        known = self.known()
        if known is None:
            known = self.made()
            self.keep(known)
        return known


def sweep_of(directory: Path) -> str | None:
    """The name of the sweep that a run belongs to; None for a run of its own."""
    return directory.absolute().parent.name if (directory / SWEPT).is_file() else None
