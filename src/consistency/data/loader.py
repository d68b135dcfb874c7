"""Batches for training as functions of the step, and noise and labels for sampling."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count as count_from
from typing import Any, NamedTuple

import torch
from torch import Tensor

from consistency.model.condition import NONE, Condition, given_label
from consistency.schedule.draws import FLIPS, ORDER, ImageDraws, key


@dataclass(frozen=True, eq=False)
class ArrayData:
    """A data set as one array, in memory or mapped from a file.

    Args:
        x: uint8 images [M, C, H, W], or float32 points [M, D].
        label: class of each, long [M], or None.
    """

    x: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.x)


class Batch(NamedTuple):
    """Training samples of one step."""

    x: Tensor  # [b, ...]
    c: Condition = NONE  # of each sample


class Excerpt(NamedTuple):
    """Samples as the training loss gets them: encoded, and mirrored if the data set mirrors them."""

    x: Tensor  # [n, ...]
    c: Condition  # of each sample
    whole: bool  # whether x is the whole data set, each sample once; else independent draws


class Request(NamedTuple):
    """Inputs for b samples; those of sample i do not depend on batch size and number of processes."""

    draws: ImageDraws  # further random numbers, after z
    z: Tensor  # unit noise [b, ...]
    c: Condition = NONE  # of each sample


class StepLoader:
    """An endless stream of batches, each a function of the seed and its number alone.

    The samples of a run are those of a permutation per epoch, one after the other; batch k of the global
    size G takes positions kG to (k+1)G, so that it may span two epochs and nothing is dropped. Process r of
    W takes the r-th of W equal slices.

    Args:
        data: the samples.
        batch: global size G of a batch, over all processes; a multiple of `world`.
        seed: order and flips follow from it.
        start: number of the first batch.
        rank: this process, 0 <= rank < world.
        world: number of processes that share a batch.
        flip: mirror each image left to right with probability 1/2, drawn anew every epoch.
        prefetch: batches that a thread prepares ahead; 0 for no thread.
        cycle: batches after which the first one follows again; 0 for never.
    """

    def __init__(
        self,
        data: ArrayData,
        batch: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        flip: bool = False,
        prefetch: int = 0,
        cycle: int = 0,
    ) -> None:
        self.data, self.size, self.seed, self.start = data, batch, seed, start
        self.rank, self.share, self.flip, self.prefetch = rank, batch // world, flip, prefetch
        self.cycle = cycle
        self._epoch = lru_cache(maxsize=2)(self._draw_epoch)  # a batch seldom spans more

    def __iter__(self) -> Iterator[Batch]:
        numbers = count_from(self.start)
        return self._ahead(numbers) if self.prefetch else map(self.batch, numbers)

    def batch(self, k: int) -> Batch:
        """This process's slice of batch k."""
        first = (k % self.cycle if self.cycle else k) * self.size + self.rank * self.share
        index, mirrored = self._samples(torch.arange(first, first + self.share))
        x, label = self.data.x[index], self.data.label
        if self.flip:
            x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(-1), x)
        return Batch(x, given_label(label).rows(index))

    # A batch is a function of its step, and the step is in the checkpoint: there is nothing to save. The two
    # methods say so to Lightning, which warns of loaders without them.
    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to do."""

    def _ahead(self, numbers: Iterator[int]) -> Iterator[Batch]:
        with ThreadPoolExecutor(1, "batches") as thread:  # ends when the iterator is closed
            ready = deque(thread.submit(self.batch, next(numbers)) for _ in range(self.prefetch))
            for k in numbers:
                ready.append(thread.submit(self.batch, k))
                yield ready.popleft().result()

    def _samples(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Indices into the data, and whether to mirror each, for ascending positions in the stream."""
        epoch, place = position // len(self.data), position % len(self.data)
        drawn = [[part[place[epoch == e]] for part in self._epoch(e)] for e in epoch.unique().tolist()]
        index, mirrored = (torch.cat(parts) for parts in zip(*drawn, strict=True))
        return index, mirrored

    def _draw_epoch(self, epoch: int) -> tuple[Tensor, Tensor]:
        order, flips = (
            torch.Generator().manual_seed(key(self.seed, stream, epoch)) for stream in (ORDER, FLIPS)
        )
        index = torch.randperm(len(self.data), generator=order)
        return index, torch.rand(len(self.data), generator=flips) < 0.5


class RequestLoader:
    """Requests for `count` samples in batches; process r of W gets batches r, r + W, r + 2W, …

    Args:
        count: number of samples over all processes.
        shape: of one sample, (C, H, W) or (D,).
        batch: samples per batch, on one process.
        seed: the noise of sample i follows from it and i.
        classes: if positive, sample i is of class i mod `classes`.
        rank: this process, 0 <= rank < world.
        world: number of processes.
    """

    def __init__(
        self,
        count: int,
        shape: Sequence[int],
        batch: int,
        seed: int,
        classes: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.shape, self.seed, self.classes = tuple(shape), seed, classes
        batches = [range(first, min(first + batch, count)) for first in range(0, count, batch)]
        self.batches = batches[rank::world]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Request]:
        return map(self.request, self.batches)

    def request(self, index: Sequence[int]) -> Request:
        """Noise and labels of the samples with these numbers."""
        draws = ImageDraws(self.seed, index)
        z = draws.normal(torch.empty(len(index), *self.shape))
        label = torch.tensor(index) % self.classes if self.classes else None
        return Request(draws, z, given_label(label))
