"""Rollouts of a teacher on disk: made once, then trained from without the teacher.

A store is a folder with an array per field of `Rollout`, and `manifest.json`, which says what the pairs were
made of and holds the hash of every finished chunk. Chunk c is a function of the seed and of c alone: a store
whose making was interrupted is gone on with, and ends with the same bytes.
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
from consistency.watch import noted, progress

GIB = 2**30
CPU = torch.device("cpu")


@dataclass
class StoreManifest:
    """What a store is made of, and the hash of each finished chunk, in order."""

    origin: Origin
    chunks: list[str] = field(default_factory=list)


class Store:
    """Pairs (x_t, t, x_r, r, label) of a teacher's flow in a folder, mapped into memory.

    Args:
        path: the folder, made when it is filled.
        count: pairs.
        chunk: pairs made at once, and lost at most when the making is interrupted.
        max_gib: the most that it may take, in units of 2^30 bytes.
        seed: images, noise levels and noise follow from it.
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
        """Make the pairs that are missing.

        Args:
            flow: takes x_t to x_r; it is not kept.
            objective: whose pairs are drawn.
            data: where x comes from.
            device: where the flow computes.
            beat: called after every chunk, and while another run fills the store.

        Raises:
            UserError: pairs that change with the step; too large; no room; of another origin; damaged.
            Interrupted: by a signal, after the chunk at hand.
        """
        check_constant(objective.pairs)
        make = Maker(flow, objective, data, device, self.chunk, self.seed)
        made_of = make.origin(self.count)
        with self._written():
            self._check_room(make, self._asked_for(made_of))  # nothing has been written yet
            with locked(self.path, beat):
                manifest = self._asked_for(made_of) or StoreManifest(
                    made_of
                )  # another run may have filled it
                if not manifest.chunks:
                    self._create(make)
                self._complete(make, manifest, beat)

    def open(self, verify: bool = True) -> None:
        """Map a full store; compare every chunk with its hash."""
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
        """Append chunks until there are all. What was there must be whole, or hours would be lost on it."""
        done, spans = len(manifest.chunks), self._spans()
        if done == len(spans):
            return
        self._map(manifest)
        self._verify(manifest)
        with progress(f"rollouts in {self.path}", self.count, done * self.chunk) as show, noted() as signals:
            for c, (first, end) in enumerate(spans[done:], done):
                rows = make(c, end - first)
                self._write(first, rows)
                manifest.chunks.append(chunk_digest(rows))
                self._keep(manifest)
                show(end)
                beat()
                if signals:
                    raise Interrupted(signals[0])

    def _asked_for(self, made_of: Origin) -> StoreManifest | None:
        """The manifest of a store that holds what is asked for, full or not; None where there is none."""
        manifest = self._read()
        differs = manifest and first_difference(manifest.origin, made_of)
        if differs:
            raise self._refused(f"holds other pairs: {differs}")
        return manifest

    def _read(self) -> StoreManifest | None:
        """The manifest as it stands."""
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
        """Refuse what is larger than allowed, or than the room there is."""
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
        """Files of the full size, which take no room yet."""
        for name, (shape, kind) in make.layout().items():
            create(self._file(name))  # numpy would write through a link
            np.lib.format.open_memmap(self._file(name), mode="w+", dtype=kind, shape=(self.count, *shape))

    def _map(self, manifest: StoreManifest) -> None:
        """See the files as arrays."""
        present = [name for name in KINDS if name != "label" or manifest.origin[f"data.{name}"]]
        try:
            self._columns = {name: map_array(self._file(name)) for name in present}
        except (OSError, ValueError) as error:
            raise self._refused(f"is not whole ({error})") from error
        for name, column in self._columns.items():  # hashes are of the bytes alone, whatever they stand for
            inner = self._columns["x_t"].shape[1:] if name in ("x_t", "x_r") else ()
            if column.dtype.str != KINDS[name] or column.shape != (self.count, *inner):
                raise self._refused(f"has a damaged header in {name}.npy")

    def _verify(self, manifest: StoreManifest) -> None:
        """Compare the finished chunks with their hashes."""
        for c, ((first, end), expected) in enumerate(zip(self._spans(), manifest.chunks, strict=False)):
            if chunk_digest({name: column[first:end] for name, column in self._columns.items()}) != expected:
                raise self._refused(f"is damaged in chunk {c}, pairs {first} to {end - 1}")

    def _write(self, first: int, rows: Columns) -> None:
        """Put rows in their places. Not through the maps: on a full disk that kills the process."""
        for name, values in rows.items():
            with reopened(self._file(name)) as file:
                file.seek(self._columns[name].offset + first * self._columns[name].strides[0])  # type: ignore[attr-defined]
                file.write(values.data)
                file.flush()
                os.fsync(file.fileno())

    def _keep(self, manifest: StoreManifest) -> None:
        """Write the manifest, whole or not at all."""
        write_text(
            self.path / "manifest.json", json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n"
        )

    def _spans(self) -> list[tuple[int, int]]:
        """First pair of each chunk, and the one after its last."""
        return [(first, min(first + self.chunk, self.count)) for first in range(0, self.count, self.chunk)]

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.npy"

    def _refused(self, fault: str) -> UserError:
        return UserError(
            f"store.path={self.path} {fault}; choose another store.path, or delete it to have it made anew"
        )

    @contextmanager
    def _written(self) -> Iterator[None]:
        """Say what the system refused."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"store.path={self.path} cannot be written ({error.strerror}): mend that or choose another; "
                "what is finished is kept"
            ) from error


def free_bytes(path: Path) -> int:
    """Room where a folder is, or would be."""
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    return shutil.disk_usage(there).free
