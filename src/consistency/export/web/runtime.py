"""onnxruntime-web, which runs the network in a browser: the two files of it that the page needs."""

import base64
import hashlib
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from pathlib import Path
from typing import NamedTuple
from urllib.request import urlopen

from filelock import FileLock

from consistency.errors import UserError
from consistency.files.paths import regular

PREFIX = "package/"  # of everything in an npm tarball
FILES = {"script": "dist/ort.wasm.bundle.min.mjs", "program": "dist/ort-wasm-simd-threaded.wasm"}


class Runtime(NamedTuple):
    """Contents of the two files."""

    script: bytes
    program: bytes


@dataclass(frozen=True)
class Release:
    """A release of onnxruntime-web. Another one may want another page, so one is pinned.

    Args:
        version: as its package.json has it.
        integrity: of its tarball, as npm's registry has it.
        registry: where tarballs are.
    """

    version: str = "1.30.0"
    integrity: str = (
        "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
    )
    registry: str = "https://registry.npmjs.org"

    @property
    def url(self) -> str:
        """Of the tarball."""
        return f"{self.registry}/onnxruntime-web/-/onnxruntime-web-{self.version}.tgz"

    def find(self, given: str | None, cache: Path) -> Runtime:
        """The files: those given, or the cached ones, or downloaded ones.

        Args:
            given: a tarball, or a folder that one was unpacked to; None to download.
            cache: folder for what is downloaded.

        Raises:
            UserError: they are not there, or are those of another release.
        """
        if given is None:
            return self._cached(cache / f"onnxruntime-web-{self.version}")
        path = Path(given)
        if path.is_dir():
            return self._in_folder(path)
        if not path.is_file():
            raise UserError(
                f"task.formats.web.runtime={given} is neither a file nor a folder; {self._remedy}"
            )
        return self._unpacked(path.read_bytes(), f"task.formats.web.runtime={given}")

    @property
    def _remedy(self) -> str:
        return f"fetch {self.url} and name it with task.formats.web.runtime=FILE.tgz"

    def _cached(self, folder: Path) -> Runtime:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                runtime = self._unpacked(self._download(), self.url)
                self._keep(folder, runtime)
        return self._in_folder(folder)

    def _keep(self, folder: Path, runtime: Runtime) -> None:
        """All of the folder or nothing."""
        partial = folder.with_name(f"{folder.name}.partial")
        (partial / "dist").mkdir(parents=True, exist_ok=True)
        for name, content in runtime._asdict().items():
            (partial / FILES[name]).write_bytes(content)
        (partial / "package.json").write_text(json.dumps({"version": self.version}), "utf-8")
        partial.rename(folder)

    def _download(self) -> bytes:
        try:
            with urlopen(self.url, timeout=60) as answer:
                return answer.read()
        except (OSError, HTTPException) as error:  # URLError among them; cut short
            raise UserError(f"onnxruntime-web cannot be downloaded ({error}): {self._remedy}") from error

    def _unpacked(self, tarball: bytes, name: str) -> Runtime:
        digest = base64.b64encode(hashlib.sha512(tarball).digest()).decode()
        if f"sha512-{digest}" != self.integrity:
            raise UserError(f"{name} is not the tarball of onnxruntime-web {self.version}; {self._remedy}")
        with tarfile.open(fileobj=BytesIO(tarball), mode="r:gz") as tar:
            return Runtime(**{key: member(tar, PREFIX + path) for key, path in FILES.items()})

    def _in_folder(self, folder: Path) -> Runtime:
        """Of an unpacked tarball, whose own folder is called package/."""
        root = folder / PREFIX if (folder / PREFIX).is_dir() else folder
        try:
            about: Mapping[str, str] = json.loads(regular(root / "package.json").read_text("utf-8"))
            runtime = Runtime(**{key: regular(root / path).read_bytes() for key, path in FILES.items()})
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} does not hold onnxruntime-web ({error}); {self._remedy}") from error
        if about.get("version") != self.version:
            raise UserError(
                f"{folder} holds onnxruntime-web {about.get('version')}, not {self.version}; {self._remedy}"
            )
        return runtime


PINNED = Release()


def member(tar: tarfile.TarFile, name: str) -> bytes:
    """Content of one file of a tarball."""
    content = tar.extractfile(name)
    assert content is not None  # not of a tarball whose hash is known
    return content.read()
