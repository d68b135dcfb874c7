"""Weights that others publish: the file that was named, the cached one, or a download."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch

from consistency.errors import UserError


@dataclass(frozen=True)
class Published:
    """A file of weights on the web.

    Args:
        url: where it is; its name ends in the beginning of its hash.
        user: what needs it, for messages.
        option: the config key that names a local copy.
        instead: what to choose where it cannot be had.
    """

    url: str
    user: str
    option: str
    instead: str

    @property
    def name(self) -> str:
        """The file's name."""
        return self.url.rpartition("/")[2]

    @property
    def hash(self) -> str:
        """How the file's SHA-256 begins."""
        return Path(self.name).stem.rpartition("-")[2]

    def locate(self, named: str | Path | None) -> Path:
        """The file that is named, or torch.hub's, which is downloaded if it is not there.

        A file under another name may be any; one under this name is what it says.

        Raises:
            UserError: there is no such file, or no network, or the file is damaged.
        """
        path = Path(named or Path(torch.hub.get_dir()) / "checkpoints" / self.name)
        if named is None and not path.is_file():
            self._download(path)
        if not path.is_file():
            raise self._missing(f"{self.option}={named} does not exist", path)
        if path.name == self.name and not sha256(path).startswith(self.hash):
            raise self._missing(f"{path} is damaged: its sha256 does not begin with {self.hash}", path)
        return path

    def _download(self, path: Path) -> None:
        """Fetch it; a failed download, or one whose hash is not that of its name, leaves nothing behind."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.hash, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise self._missing(
                f"{self.user} needs {self.name}, and it cannot be had ({error})", path
            ) from error

    def _missing(self, what: str, path: Path) -> UserError:
        """The remedies, in one line."""
        return UserError(
            f"{what}; get {self.url} (sha256 {self.hash}…) on another machine and put it at {path}, or say "
            f"{self.option}=FILE, or choose {self.instead}"
        )


def sha256(path: Path) -> str:
    """Of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
