"""Weights that others publish: the file that was named, the cached one, or a download."""

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

    def located(self, named: str | Path | None) -> Path:
        """The file that is named, or torch.hub's, which is downloaded if it is not there.

        Raises:
            UserError: there is no such file, or no network.
        """
        if named is not None:
            if not Path(named).is_file():
                raise self._missing(f"{self.option}={named} does not exist", Path(named))
            return Path(named)
        cached = Path(torch.hub.get_dir()) / "checkpoints" / self.name
        if not cached.is_file():
            self._download(cached)
        return cached

    def _download(self, path: Path) -> None:
        """Fetch it; a failed download, or one whose hash is not that of its name, leaves nothing behind."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            prefix = path.stem.rpartition("-")[2]
            torch.hub.download_url_to_file(self.url, str(path), hash_prefix=prefix, progress=False)
        except (URLError, OSError, RuntimeError) as error:
            raise self._missing(
                f"{self.user} needs {self.name}, and it cannot be had ({error})", path
            ) from error

    def _missing(self, what: str, path: Path) -> UserError:
        """The remedies, in one line."""
        return UserError(
            f"{what}; get {self.url} on another machine and put it at {path}, or say {self.option}=FILE, "
            f"or choose {self.instead}"
        )
