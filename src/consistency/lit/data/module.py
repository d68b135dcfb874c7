"""The abstract data set: one hole, `load`. Batches, noise, encoding and decoding are the same for all."""

import math
from abc import abstractmethod
from collections.abc import Container, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Required, TypedDict

import torch
from lightning import LightningDataModule, Trainer
from torch import Tensor

from consistency.codec.codec import Codec
from consistency.codec.pixels import Pixels, codec_name
from consistency.codec.points import Points
from consistency.data.loader import ArrayData, Batch, Excerpt, RequestLoader, StepLoader
from consistency.errors import UserError, at_least, positive, within
from consistency.model.condition import given_label
from consistency.process.capacity import check_memory
from consistency.schedule.draws import REFERENCES, StepDraws
from consistency.truth.oracle import Mixture

CPU = torch.device("cpu")
LARGEST_BATCH = 2**24  # samples; a batch of more takes minutes before its first step


class DataArguments(TypedDict, total=False):
    """The arguments of `DataModule`, which the constructors of all data sets hand on to it."""

    batch_size: Required[int]
    seed: int
    flip: bool
    conditional: bool
    samples: int
    sample_batch: int
    offset: float
    scale: float
    prefetch: int
    batches: int
    codec: Codec | None


class DataModule(LightningDataModule):
    """An array -> training batches, and requests for samples.

    Samples are stored as people and metrics see them, and trained on as the codec encodes them.

    Args:
        batch_size: samples of an optimiser step, over all processes and accumulated parts, as papers count.
        seed: order, flips and the noise of samples follow from it.
        flip: mirror images left to right at random.
        conditional: serve labels.
        samples: how many samples a validation makes, over all processes.
        sample_batch: samples made at once on one process.
        offset: of `Pixels`, what images are trained on unless there is another codec.
        scale: likewise.
        prefetch: batches prepared ahead by a thread; 0 for no thread.
        batches: of which training consists, again and again; 0 for all.
        codec: what networks see of a sample; None for `Pixels` of images, and `Points`.
    """

    def __init__(
        self,
        batch_size: int,
        seed: int = 0,
        flip: bool = False,
        conditional: bool = False,
        samples: int = 1024,
        sample_batch: int = 256,
        offset: float = 127.5,
        scale: float = 127.5,
        prefetch: int = 0,
        batches: int = 0,
        codec: Codec | None = None,
    ) -> None:
        super().__init__()
        at_least("data", samples=samples)
        within("data", 1, LARGEST_BATCH, batch_size=batch_size, sample_batch=sample_batch)
        at_least("data", 0, seed=seed, batches=batches)
        within("data", 0, 1000, prefetch=prefetch)
        positive("data", scale=scale)
        self.batch_size, self.seed, self.flip, self.conditional = batch_size, seed, flip, conditional
        self.samples, self.sample_batch, self.prefetch = samples, sample_batch, prefetch
        self.offset, self.scale, self.batches, self._codec = offset, scale, batches, codec
        self._data: ArrayData | None = None
        self._told: tuple[tuple[int, ...], int] | None = None
        self._all = lru_cache(maxsize=1)(self._serve_all)  # of one device

    @abstractmethod
    def load(self) -> ArrayData:
        """The whole data set; called once. What it downloads or converts, it finds at the next call."""

    def load_held_out(self) -> ArrayData | None:
        """Samples of the same kind that no training sees; None where there are none."""
        return None

    def class_names(self) -> list[str] | None:
        """Names of the classes, by label; None where they have none."""
        return None

    def prepare_data(self) -> None:
        """Load on one process of each machine before the others do."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load, unless it has been done."""
        if self._data is None:
            data = self.load()
            if self.conditional and data.label is None:
                raise UserError(
                    "data.conditional=true but this data set has no labels: set data.conditional=false, "
                    "or choose data with classes (for a folder of images, one folder per class)"
                )
            self._data = data if self.conditional else ArrayData(data.x)
            self._check_sizes()
            self._check_told()

    def _check_sizes(self) -> None:
        """Refuse more samples at once than memory holds, in float32."""
        sample = 4 * math.prod(self._data.x.shape[1:]) if self._data else 0
        for name in ("batch_size", "sample_batch"):
            check_memory(f"data.{name}={getattr(self, name)}", sample * getattr(self, name))
        check_memory(f"data.samples={self.samples}", 16 * self.samples)  # features, if not samples, are kept

    def expect(self, shape: Sequence[int], classes: int) -> None:
        """What a checkpoint says of the data: all that is asked of them until samples are.

        Args:
            shape: of one sample, as the network sees it.
            classes: 0 for none.

        Raises:
            UserError: the codec makes no such samples of any data.
        """
        self._told = tuple(shape), classes
        if (made := self.codec.encoded(self.stored_shape)) != self._told[0]:
            raise UserError(
                f"{codec_name(self.codec)} makes samples {shape_in_words(made, classes)}, but the "
                "network is for "
                f"{shape_in_words(shape, classes)}: leave data.codec as it was in training"
            )

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Write nowhere else, whatever paths the config of a file has; these are read from.

        Args:
            directory: for downloads and caches.
            named: arguments of this data set that the user named, which hold for writing, too.
        """

    def _check_told(self) -> None:
        told, self._told = self._told, None
        found = self.shape, self.classes
        if told is not None and told != found:
            raise UserError(
                f"data are {shape_in_words(*found)}, but the network is for "
                f"{shape_in_words(*told)}: use those that it "
                "was trained on, or others like them: +override.data.root=PATH"
            )

    @property
    def data(self) -> ArrayData:
        """The samples that are served, with labels if conditional."""
        self.setup()
        assert self._data is not None
        return self._data

    @property
    def codec(self) -> Codec:
        """Between samples as they are stored, and as networks see them."""
        if self._codec is not None:
            return self._codec
        axes = len(self._told[0] if self._told else self.promised or self.data.x.shape[1:])
        return Pixels(self.offset, self.scale) if axes == 3 else Points()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample as networks see it: (C, H, W) or (D,)."""
        return self._told[0] if self._told else self.codec.encoded(self.stored_shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Of one sample as it is stored, and as people and metrics see it: (C, H, W) or (D,)."""
        return self.codec.decoded(self._told[0]) if self._told else tuple(self.data.x.shape[1:])

    @property
    def promised(self) -> tuple[int, ...] | None:
        """The stored shape of one sample where it is known before anything is read, else None."""
        return None

    @property
    def classes(self) -> int:
        """How many, 0 unless conditional."""
        if self._told:
            return self._told[1]
        return 0 if self.data.label is None else int(self.data.label.max()) + 1

    @property
    def density(self) -> Mixture | None:
        """What the data were drawn from, where that is known exactly."""
        return None

    def real(self) -> Tensor:
        """All samples as metrics see them: uint8 images [M, C, H, W] or points [M, D]."""
        return self.data.x

    def on_after_batch_transfer(self, batch: Batch | object, dataloader_idx: int) -> Batch | object:
        """Encode where the batch lies, so that a quarter of the bytes travels."""
        return self._encoded(batch) if isinstance(batch, Batch) else batch

    def some(self, n: int, k: int, device: torch.device) -> Excerpt:
        """n samples to go with those of step k, each drawn from all; where all are no more than n, all, once.

        With `flip` an image and its mirror image are two samples. A function of seed and k alone, so that all
        processes, and all accumulated parts of a step, see the same.
        """
        count = len(self.data) * (1 + self.flip)
        if count <= n:
            return self._all(device)
        number = (count * StepDraws(self.seed, REFERENCES, k).uniform(n, CPU)).long()
        return Excerpt(*self._serve(number, device), whole=False)

    def _serve_all(self, device: torch.device) -> Excerpt:
        number = torch.arange(len(self.data) * (1 + self.flip))
        return Excerpt(*self._serve(number, device), whole=True)

    def _serve(self, number: Tensor, device: torch.device) -> Batch:
        """Samples by number, encoded: len(data) + i is the mirror image of i."""
        index, label = number % len(self.data), self.data.label
        x = self.data.x.index_select(0, index).to(device)  # many times faster than x[index]
        if self.flip:
            mirrored = (number >= len(self.data)).to(device)
            x = torch.where(mirrored.reshape(-1, 1, 1, 1), x.flip(-1), x)
        return self._encoded(Batch(x, given_label(label).rows(index).to(device)))

    def _encoded(self, batch: Batch) -> Batch:
        return batch._replace(x=self.codec.encode(batch.x))

    def check_split(self, world: int, parts: int) -> None:
        """Refuse a batch that cannot be split evenly.

        Args:
            world: number of processes.
            parts: batches of an optimiser step on each.
        """
        if self.batch_size % (world * parts):
            raise UserError(
                f"data.batch_size={self.batch_size} must be a multiple of {world * parts}: trainer.devices "
                f"({world} processes) times trainer.accumulate_grad_batches ({parts})"
            )

    def train_dataloader(self) -> StepLoader:
        """From the batch where the run stands."""
        rank, world, parts = self._share()
        self.check_split(world, parts)
        start = parts * (self.trainer.global_step if self.trainer else 0)
        size = self.batch_size // parts
        cycle = parts * self.batches
        return StepLoader(self.data, size, self.seed, start, rank, world, self.flip, self.prefetch, cycle)

    def val_dataloader(self) -> RequestLoader:
        """The same requests at every validation."""
        rank, world, _ = self._share()
        batch = min(self.sample_batch, max(self.samples // world, 1))  # no process goes without
        return RequestLoader(self.samples, self.shape, batch, self.seed, self.classes, rank, world)

    def _share(self) -> tuple[int, int, int]:
        """This process, the number of processes, and into how many batches an optimiser step is split."""
        if self.trainer is None:
            return 0, 1, 1
        return self.trainer.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches


def shape_in_words(shape: Sequence[int], classes: int) -> str:
    """Samples in words."""
    return f"{'x'.join(map(str, shape))} with {classes or 'no'} classes"


def data_of(trainer: Trainer) -> DataModule:
    """The data of a run."""
    return trainer.datamodule  # type: ignore[attr-defined]
