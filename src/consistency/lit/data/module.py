"""The data module of every data set. Subclasses define `load`; batches, noise and encoding are common."""

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
LARGEST_BATCH = 2**24  # samples; a larger batch takes minutes before the first step


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
    """Serves an array as batches for training, and noise as requests for the samples of validations.

    Samples are stored decoded, as metrics use them, and encoded by the codec for training.

    Args:
        batch_size: number of samples in an optimiser step, over all processes and accumulated parts.
        seed: determines the order, the mirroring and the noise of samples.
        flip: mirror images left to right at random.
        conditional: serve labels.
        samples: number of samples that a validation makes, over all processes.
        sample_batch: number of samples made at once on one process.
        offset: of the codec `Pixels`, used for images where no other codec is given.
        scale: of the codec `Pixels`.
        prefetch: number of batches prepared ahead by a thread; 0 for no thread.
        batches: number of batches that training repeats; 0 for all data.
        codec: between stored samples and the input of networks; None for `Pixels` of images and `Points`.
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
        self._expected: tuple[tuple[int, ...], int] | None = None  # shape and classes until data are loaded
        self._all = lru_cache(maxsize=1)(self._serve_all)  # of one device

    @abstractmethod
    def load(self) -> ArrayData:
        """The whole data set; called once per process. Downloads and conversions are kept for later runs."""

    def load_held_out(self) -> ArrayData | None:
        """Samples of the same distribution that are not used in training; None where there are none."""
        return None

    def class_names(self) -> list[str] | None:
        """Names of the classes, by label; None where there are none."""
        return None

    def prepare_data(self) -> None:
        """Load the data on one process of each machine before the others do."""
        self.setup()

    def setup(self, stage: str | None = None) -> None:
        """Load the data, unless that has been done.

        Raises:
            UserError: labels are required and there are none, the sizes do not fit into memory, or the data
                do not have the shape and the classes that `expect` was called with.
        """
        if self._data is None:
            data = self.load()
            if self.conditional and data.label is None:
                raise UserError(
                    "data.conditional=true but this data set has no labels: set data.conditional=false, "
                    "or choose data with classes (for a folder of images, one folder per class)"
                )
            self._data = data if self.conditional else ArrayData(data.x)
            self._check_sizes()
            self._check_expected()

    def _check_sizes(self) -> None:
        """Refuse sizes for which memory is too small, in float32."""
        sample = 4 * math.prod(self._data.x.shape[1:]) if self._data else 0
        for name in ("batch_size", "sample_batch"):
            check_memory(f"data.{name}={getattr(self, name)}", sample * getattr(self, name))
        check_memory(
            f"data.samples={self.samples}", 16 * self.samples
        )  # at least some numbers of each are kept

    def expect(self, shape: Sequence[int], classes: int) -> None:
        """Set the shape and the number of classes, as a checkpoint has them, before any data are loaded.

        Args:
            shape: of one encoded sample.
            classes: number of classes; 0 for none.

        Raises:
            UserError: the codec cannot encode to this shape.
        """
        self._expected = tuple(shape), classes
        if (made := self.codec.encoded(self.stored_shape)) != self._expected[0]:
            raise UserError(
                f"{codec_name(self.codec)} makes samples {shape_in_words(made, classes)}, but the "
                "network is for "
                f"{shape_in_words(shape, classes)}: leave data.codec as it was in training"
            )

    def write_below(self, directory: Path, named: Container[str]) -> None:
        """Write only below `directory`; the paths in the config of a file are only read from.

        Args:
            directory: for downloads and caches.
            named: arguments of this data set that the user gave; paths among them may be written to as well.
        """

    def _check_expected(self) -> None:
        expected, self._expected = self._expected, None
        found = self.shape, self.classes
        if expected is not None and expected != found:
            raise UserError(
                f"data are {shape_in_words(*found)}, but the network is for "
                f"{shape_in_words(*expected)}: use those that it "
                "was trained on, or others like them: +override.data.root=PATH"
            )

    @property
    def data(self) -> ArrayData:
        """All samples, with labels if conditional."""
        self.setup()
        assert self._data is not None
        return self._data

    @property
    def codec(self) -> Codec:
        """Encodes stored samples for networks, and decodes their output."""
        if self._codec is not None:
            return self._codec
        axes = len(self._expected[0] if self._expected else self.promised or self.data.x.shape[1:])
        return Pixels(self.offset, self.scale) if axes == 3 else Points()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one encoded sample, the input of networks: (C, H, W) or (D,)."""
        return self._expected[0] if self._expected else self.codec.encoded(self.stored_shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one stored sample, the input of metrics: (C, H, W) or (D,)."""
        return self.codec.decoded(self._expected[0]) if self._expected else tuple(self.data.x.shape[1:])

    @property
    def promised(self) -> tuple[int, ...] | None:
        """The stored shape of one sample where it is known before any data are read, else None."""
        return None

    @property
    def classes(self) -> int:
        """Number of classes; 0 unless conditional."""
        if self._expected:
            return self._expected[1]
        return 0 if self.data.label is None else int(self.data.label.max()) + 1

    @property
    def density(self) -> Mixture | None:
        """The distribution that the data are drawn from, where it is known exactly."""
        return None

    def real(self) -> Tensor:
        """All stored samples, the reference of metrics: uint8 images [M, C, H, W] or points [M, D]."""
        return self.data.x

    def on_after_batch_transfer(self, batch: Batch | object, dataloader_idx: int) -> Batch | object:
        """Encode a batch after its transfer to the device, which takes a quarter of the bytes before."""
        return self._encoded(batch) if isinstance(batch, Batch) else batch

    def some(self, n: int, k: int, device: torch.device) -> Excerpt:
        """n samples for the reference of step k, drawn with replacement; all where there are at most n.

        With `flip`, an image and its mirror image are two samples. They depend on the seed and k only, so
        that all processes and all accumulated parts of a step use the same.
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
        """Encoded samples by number [n]; number len(data) + i is the mirror image of i."""
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
            parts: number of batches in an optimiser step, on each process.

        Raises:
            UserError: the batch size is no multiple of world x parts.
        """
        if self.batch_size % (world * parts):
            raise UserError(
                f"data.batch_size={self.batch_size} must be a multiple of {world * parts}: trainer.devices "
                f"({world} processes) times trainer.accumulate_grad_batches ({parts})"
            )

    def train_dataloader(self) -> StepLoader:
        """Training batches, from that of the present step on."""
        rank, world, parts = self._share()
        self.check_split(world, parts)
        start = parts * (self.trainer.global_step if self.trainer else 0)
        size = self.batch_size // parts
        cycle = parts * self.batches
        return StepLoader(self.data, size, self.seed, start, rank, world, self.flip, self.prefetch, cycle)

    def val_dataloader(self) -> RequestLoader:
        """The same requests at every validation."""
        rank, world, _ = self._share()
        batch = min(self.sample_batch, max(self.samples // world, 1))  # so that every process has one
        return RequestLoader(self.samples, self.shape, batch, self.seed, self.classes, rank, world)

    def _share(self) -> tuple[int, int, int]:
        """Number of this process, number of processes, and number of batches in an optimiser step."""
        if self.trainer is None:
            return 0, 1, 1
        return self.trainer.global_rank, self.trainer.world_size, self.trainer.accumulate_grad_batches


def shape_in_words(shape: Sequence[int], classes: int) -> str:
    """Shape and classes as text, such as `3x32x32 with no classes`."""
    return f"{'x'.join(map(str, shape))} with {classes or 'no'} classes"


def data_of(trainer: Trainer) -> DataModule:
    """The data of a run."""
    return trainer.datamodule  # type: ignore[attr-defined]
