"""Chunks of a store of teacher pairs: their columns, their computation and their hash.

Chunk c depends on the seed and on c only.
"""

from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

import numpy as np
import torch

from consistency.codec.identity import marks
from consistency.data.loader import Batch, StepLoader
from consistency.data.origin import Origin, describe_origin
from consistency.errors import UserError
from consistency.lit.data.module import DataModule
from consistency.objectives.discrete import Discrete
from consistency.objectives.flow import Flow
from consistency.schedule.draws import ROLLOUTS, StepDraws
from consistency.schedule.pairs import Pairs

VERSION = 1  # of the format; stores of another version are refused
KINDS = {"x_t": "<f4", "t": "<f8", "x_r": "<f4", "r": "<f8", "label": "<i8"}  # NumPy dtype of each column

Columns = dict[str, np.ndarray]  # [n, ...] by field of Rollout; without `label` where data have none


@dataclass(frozen=True, eq=False)
class Maker:
    """Computes the pairs of a chunk from the seed and the chunk's number.

    Args:
        flow: takes x_t to x_r.
        objective: draws the noise levels of pairs.
        data: the samples x.
        device: of the flow.
        chunk: number of pairs in a chunk.
        seed: determines samples, noise levels and noise.
    """

    flow: Flow
    objective: Discrete
    data: DataModule
    device: torch.device
    chunk: int
    seed: int

    @cached_property
    def loader(self) -> StepLoader:
        """Batches of the data, in epochs."""
        return StepLoader(self.data.data, self.chunk, self.seed, flip=self.data.flip)

    def origin(self, count: int) -> Origin:
        """Everything that determines the bytes of a store."""
        made: Origin = {"version": VERSION, "count": count, "chunk": self.chunk, "seed": self.seed}
        for name, value in {"flip": self.data.flip, **marks(self.data.codec)}.items():
            made |= describe_origin(f"data.{name}", value)
        laws = describe_origin("pairs", self.objective.pairs) | describe_origin("flow", self.flow)
        return made | describe_origin("data", self.data.data) | laws

    def layout(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape and dtype of a row of each column."""
        shape = self.data.shape
        shapes = {"x_t": shape, "t": (), "x_r": shape, "r": (), "label": ()}
        present = [name for name in shapes if name != "label" or self.data.data.label is not None]
        return {name: (shapes[name], KINDS[name]) for name in present}

    def __call__(self, c: int, n: int) -> Columns:
        """The first n pairs of chunk c."""
        x, condition = self.loader.batch(c)
        batch = Batch(x[:n].to(self.device), condition.rows(slice(n)).to(self.device))
        batch = self.data.on_after_batch_transfer(batch, 0)
        pair = self.objective.rollout(self.flow, *batch, 0, StepDraws(self.seed, ROLLOUTS, c))  # type: ignore[misc]
        columns = {**pair._asdict(), "label": pair.c.label}
        kinds = {name: kind for name, (_, kind) in self.layout().items()}
        return {name: np.ascontiguousarray(columns[name].cpu(), kind) for name, kind in kinds.items()}


def chunk_digest(rows: Columns) -> str:
    """SHA-256 of the bytes of a chunk."""
    digest = sha256()
    for name in KINDS:
        if name in rows:
            digest.update(rows[name].data)
    return digest.hexdigest()


def check_constant(pairs: Pairs) -> None:
    """Refuse a law of pairs that changes with the step.

    Raises:
        UserError: it does, and a store holds pairs of one law.
    """
    first, last = pairs.progress(0), pairs.progress(10**12)
    for name in first:
        if first[name] != last[name]:
            raise UserError(
                f"curriculum: {name} goes from {first[name]:g} to {last[name]:g}, but a store holds the "
                "pairs of one: choose curriculum=constant"
            )
