"""Pairs of teacher trajectories on disk, computed once, for training without the teacher.

A store is a folder with an array for each field of `Rollout`, and `manifest.json` with the origin of the
pairs and the hash of every finished chunk. Chunk c depends on the seed and on c only, so that an interrupted
store can be continued and has the same bytes in the end.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch

from consistency.data.lock import locked
from consistency.data.npy import map_array
from consistency.data.origin import Origin, first_difference
from consistency.errors import UserError, at_least, positive
from consistency.files.atomic import create, write_text
from consistency.files.owned import reopened
from consistency.files.paths import regular
from consistency.lit.data.chunks import KINDS, Columns, Maker, check_constant, chunk_digest
from consistency.lit.data.module import DataModule
from consistency.model.condition import given_label
from consistency.objectives.discrete import Discrete, Rollout
from consistency.objectives.flow import Flow
from consistency.process.stops import Interrupted
from consistency.schedule.draws import Draws
from consistency.watch import collect_signals, progress

GIB = 2**30
CPU = torch.device("cpu")


@dataclass
class StoreManifest:
    """The origin of a store's pairs, and the hash of each finished chunk, in order."""

    origin: Origin
    chunks: list[str] = field(default_factory=list)


class Store:
    """Pairs (x_t, t, x_r, r, label) of a teacher's flow in a folder, mapped into memory.

    Args:
        path: of the folder, which is made when the store is filled.
        count: number of pairs.
        chunk: number of pairs computed at once; an interruption loses at most so many.
        max_gib: largest size on disk, in GiB.
        seed: determines samples, noise levels and noise.
    """

    def __init__(
        self, path: str | Path, count: int = 65_536, chunk: int = 1024, max_gib: float = 8.0, seed: int = 0
    ) -> None:
        at_least("store", count=count, chunk=chunk)
        at_least("store", 0, seed=seed)
        positive("store", max_gib=max_gib)
        self.path, self.count, self.chunk = Path(path), count, chunk
        self.max_gib, self.seed = max_gib, seed
        self._columns: Columns = {}

    def fill(
        self,
        flow: Flow,
        objective: Discrete,
        data: DataModule,
        device: torch.device = CPU,
        beat: Callable[[], object] = lambda: None,
    ) -> None:
        """Compute the pairs that are missing.

        Args:
            flow: takes x_t to x_r; it is not kept.
            objective: draws the noise levels of pairs.
            data: the samples x.
            device: of the flow.
            beat: called after every chunk, and repeatedly while another run fills the store.

        Raises:
            UserError: the law of pairs changes with the step; the store is too large for max_gib or for the
                disk, has another origin, or is damaged.
            Interrupted: a signal arrived; the chunk in progress is finished.
        """
        check_constant(objective.pairs)
        make = Maker(flow, objective, data, device, self.chunk, self.seed)
        origin = make.origin(self.count)
        with self._write_errors():
            self._check_room(make, self._matching_manifest(origin))  # nothing has been written yet
            with locked(self.path, beat):  # another run may have filled the store meanwhile
                manifest = self._matching_manifest(origin) or StoreManifest(origin)
                if not manifest.chunks:
                    self._create(make)
                self._complete(make, manifest, beat)

    def open(self, verify: bool = True) -> None:
        """Map a full store into memory.

        Args:
            verify: compare every chunk with its hash.

        Raises:
            UserError: the store is not full, or damaged.
        """
        manifest = self._read()
        if manifest is None or len(manifest.chunks) < len(self._spans()):
            raise UserError(f"store.path={self.path} is not full: it must lie where all processes see it")
        self._map(manifest)
        if verify:
            self._verify(manifest)

    def draw(self, n: int, draws: Draws, device: torch.device) -> Rollout:
        """n pairs at random, with replacement, on `device`."""
        index = (draws.uniform(n, CPU) * self.count).long().clamp(max=self.count - 1).numpy()
        rows = {name: torch.from_numpy(column[index]).to(device) for name, column in self._columns.items()}
        label = rows.pop("label", None)
        return Rollout(**rows, c=given_label(label))

    def _complete(self, make: Maker, manifest: StoreManifest, beat: Callable[[], object]) -> None:
        """Append the missing chunks. Those that exist are verified first."""
        done, spans = len(manifest.chunks), self._spans()
        if done == len(spans):
            return
        self._map(manifest)
        self._verify(manifest)
        with (
            progress(f"rollouts in {self.path}", self.count, done * self.chunk) as show,
            collect_signals() as signals,
        ):
            for c, (first, end) in enumerate(spans[done:], done):
                rows = make(c, end - first)
                self._write(first, rows)
                manifest.chunks.append(chunk_digest(rows))
                self._keep(manifest)
                show(end)
                beat()
                if signals:
                    raise Interrupted(signals[0])

    def _matching_manifest(self, origin: Origin) -> StoreManifest | None:
        """The manifest, if there is one, of a store with this origin, full or not.

        Raises:
            UserError: the store has another origin.
        """
        manifest = self._read()
        differs = manifest and first_difference(manifest.origin, origin)
        if differs:
            raise self._refused(f"holds other pairs: {differs}")
        return manifest

    def _read(self) -> StoreManifest | None:
        """The manifest; None where there is none."""
        try:
            found = json.loads(regular(self.path / "manifest.json").read_text("utf-8"))
            manifest = StoreManifest(dict(found["origin"]), list(found["chunks"]))
            if "data.label" not in manifest.origin or not all(isinstance(c, str) for c in manifest.chunks):
                raise ValueError("no origin, or no hashes")
            return manifest
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise self._refused("has a damaged manifest.json") from error

    def _check_room(self, make: Maker, manifest: StoreManifest | None) -> None:
        """Refuse a store that is larger than max_gib, or than the free space on disk."""
        row = sum(np.dtype((kind, shape)).itemsize for shape, kind in make.layout().values())
        size, done = row * self.count, len(manifest.chunks) if manifest else 0
        if size > self.max_gib * GIB:
            raise UserError(
                f"store.count={self.count} pairs of {row} bytes take {size / GIB:.3g} GiB, more than "
                f"store.max_gib={self.max_gib}: raise that, or lower store.count"
            )
        rest, free = size - done * self.chunk * row, free_bytes(self.path)
        if rest > free:
            raise UserError(
                f"store.path={self.path} needs {rest / GIB:.3g} GiB more, and {free / GIB:.3g} are free: "
                "make room, choose another store.path, or lower store.count"
            )

    def _create(self, make: Maker) -> None:
        """Create the arrays at their full size, as sparse files."""
        for name, (shape, kind) in make.layout().items():
            create(self._file(name))  # numpy would write through a link
            np.lib.format.open_memmap(self._file(name), mode="w+", dtype=kind, shape=(self.count, *shape))

    def _map(self, manifest: StoreManifest) -> None:
        """Map the files into memory as arrays, and check their headers."""
        present = [name for name in KINDS if name != "label" or manifest.origin[f"data.{name}"]]
        try:
            self._columns = {name: map_array(self._file(name)) for name in present}
        except (OSError, ValueError) as error:
            raise self._refused(f"is not whole ({error})") from error
        for name, column in self._columns.items():  # the hashes do not include dtype and shape
            inner = self._columns["x_t"].shape[1:] if name in ("x_t", "x_r") else ()
            if column.dtype.str != KINDS[name] or column.shape != (self.count, *inner):
                raise self._refused(f"has a damaged header in {name}.npy")

    def _verify(self, manifest: StoreManifest) -> None:
        """Compare the finished chunks with their hashes."""
        for c, ((first, end), expected) in enumerate(zip(self._spans(), manifest.chunks, strict=False)):
            if chunk_digest({name: column[first:end] for name, column in self._columns.items()}) != expected:
                raise self._refused(f"is damaged in chunk {c}, pairs {first} to {end - 1}")

    def _write(self, first: int, rows: Columns) -> None:
        """Write rows to the files; through the memory maps, a full disk would kill the process."""
        for name, values in rows.items():
            with reopened(self._file(name)) as file:
                file.seek(self._columns[name].offset + first * self._columns[name].strides[0])  # type: ignore[attr-defined]
                file.write(values.data)
                file.flush()
                os.fsync(file.fileno())

    def _keep(self, manifest: StoreManifest) -> None:
        """Write the manifest atomically."""
        write_text(
            self.path / "manifest.json", json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
        )

    def _spans(self) -> list[tuple[int, int]]:
        """Range [first, end) of the pairs of each chunk."""
        return [(first, min(first + self.chunk, self.count)) for first in range(0, self.count, self.chunk)]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"

    def _refused(self, fault: str) -> UserError:
        return UserError(
            f"store.path={self.path} {fault}; choose another store.path, or delete it to have it made anew"
        )

    @contextmanager
    def _write_errors(self) -> Iterator[None]:
        """Report an error of the file system as a UserError."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"store.path={self.path} cannot be written ({error.strerror}): mend that or choose another; "
                "what is finished is kept"
            ) from error


def free_bytes(path: Path) -> int:
    """Free bytes on the disk of a folder, which need not exist yet."""
    existing = next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())
    return shutil.disk_usage(existing).free
