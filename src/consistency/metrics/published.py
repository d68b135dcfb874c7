"""Published files of weights: a local copy, the cached file, or a download."""

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
        url: address; the file name ends with the first digits of the file's SHA-256.
        user: the feature that needs the file, for messages.
        option: config key of a local copy.
        instead: alternatives without the file, for messages.
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
        """First digits of the file's SHA-256."""
        return Path(self.name).stem.rpartition("-")[2]

    def locate(self, named: str | Path | None) -> Path:
        """The path of the file: `named`, or else the file in torch.hub's cache, downloaded if necessary.

        The hash is checked if the file has the published name; a file with another name may be any.

        Raises:
            UserError: the file does not exist, cannot be downloaded, or is damaged.
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
        """Download the file; a failed download, or one with a wrong hash, leaves no file."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=self.hash, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise self._missing(
                f"{self.user} needs {self.name}, and it cannot be had ({error})", path
            ) from error

    def _missing(self, what: str, path: Path) -> UserError:
        """The error for a missing or damaged file, with the remedies."""
        return UserError(
            f"{what}; get {self.url} (sha256 {self.hash}…) on another machine and put it at {path}, or say "
            f"{self.option}=FILE, or choose {self.instead}"
        )


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
