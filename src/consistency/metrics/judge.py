"""Judges of samples: shown the data once, then samples by the sampler's name, then asked for numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError, within
from consistency.metrics.features import Extractor, Seen, merge_seen, see
from consistency.metrics.fidelity import FeatureReference
from consistency.metrics.processes import everybodys, from_first, undeal
from consistency.metrics.reference import reference
from consistency.metrics.scores import ALL, Frechet, Plain, Score
from consistency.metrics.transport import sliced_wasserstein2
from consistency.tensor import weights_sha256

FEWEST = 4  # samples of the data, for the floor of a Fréchet distance


class Judge(Protocol):
    """Compares samples with data, both as uint8 images [B, C, H, W] or as points [B, D].

    Batches of samples are dealt to the processes like cards: the numbers do not depend on how many there are.
    """

    @property
    def main(self) -> str:
        """Name of the number that tells better from worse; lower is better."""
        ...

    def check(self, shape: Sequence[int], real: int, made: int, key: str) -> None:
        """Refuse, before anything is computed, what it cannot judge.

        Args:
            shape: of a sample, (C, H, W) of an image or (D,) of a point.
            real: number of samples of the data.
            made: number of samples to be judged.
            key: of the config that says how many are made.

        Raises:
            UserError: it judges no such samples, or they are too few.
        """
        ...

    def begin(self, real: Tensor, device: torch.device) -> None:
        """See the data; called again for the same data, does nothing."""
        ...

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples of the sampler `name`."""
        ...

    def compute(self) -> dict[str, float]:
        """Numbers by `metric/name`, over all processes, and forget the samples."""
        ...

    def protocol(self, count: int) -> dict[str, Plain]:
        """All of the judge that moves its numbers for so many samples, once the data have been seen."""
        ...

    def thorough(self) -> "Judge":
        """The same judge with all that it can say, for the few times when seconds do not matter."""
        ...


class Fidelity:
    """Scores of every sampler in the features of one extractor.

    The floor beside the Fréchet distance is the one between random halves of the data.

    Args:
        extractor: images -> features.
        scores: features -> numbers.
        cache: folder where features of data are kept; None to compute them anew.
    """

    def __init__(
        self, extractor: Extractor, scores: Sequence[Score] = (Frechet(),), cache: str | Path | None = None
    ) -> None:
        self.extractor, self.scores, self.cache = extractor, scores, cache
        self.made: dict[str, list[Seen]] = {}
        self.real: FeatureReference | None = None

    @property
    def main(self) -> str:
        """FID, or FD(features)."""
        return self.extractor.metric_name

    def check(self, shape: Sequence[int], real: int, made: int, key: str) -> None:
        """See `Judge`: a distance needs two samples, and its floor as many in each half of the data."""
        dtype = torch.uint8 if len(shape) == 3 else torch.float32
        try:
            see(torch.zeros(1, *shape, dtype=dtype), self.extractor)
        except UserError as error:
            raise UserError(
                f"metric: {error}; choose metric=transport, or another that suits the data"
            ) from error
        if real < FEWEST:
            raise UserError(
                f"data: {self.main} needs at least {FEWEST} samples of the data, and there are {real}: use "
                "more, or metric=transport"
            )
        if made < 2:
            raise UserError(f"{key}={made}: {self.main} needs at least 2 samples: set {key}=2 or greater")

    def begin(self, real: Tensor, device: torch.device) -> None:
        """Have the data seen, once."""
        if self.real is None:
            cache = None if self.cache is None else Path(self.cache)
            self.real = reference(real, self.extractor.to(device), cache)

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples."""
        self.made.setdefault(name, []).append(see(samples, self.extractor))

    def compute(self) -> dict[str, float]:
        """All scores of each sampler, and the floor."""
        dealt = everybodys(self.made)
        self.made = {}
        return from_first(lambda: self._judged(dealt))

    def protocol(self, count: int) -> dict[str, Plain]:
        """Extractor, data and scores."""
        assert self.real is not None
        found: dict[str, Plain] = {
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.weights_sha256,
            "resize": self.extractor.resize,
            "reference_sha256": self.real.sha256,
            "reference_count": len(self.real),
        }
        for score in self.scores:
            found |= score.protocol(count, len(self.real))
        return found

    def thorough(self) -> "Fidelity":
        """With Inception Score, KID, precision and recall."""
        judge = Fidelity(self.extractor, ALL, self.cache)
        judge.real = self.real  # seen already, perhaps
        return judge

    def _judged(self, dealt: list[dict[str, list[Seen]]]) -> dict[str, float]:
        assert self.real is not None
        values: dict[str, float] = {}
        for name in list(dict.fromkeys(name for of_process in dealt for name in of_process)):
            made = merge_seen(undeal([of_process.pop(name, []) for of_process in dealt]))  # not there twice
            for score in self.scores:
                found = score(self.extractor, made, self.real)
                values |= {f"{metric}/{name}": value for metric, value in found.items()}
        return {**values, f"{self.main}/floor": self.real.floor}


class Transport:
    """Sliced Wasserstein-2 distance of points, or of images seen as points.

    Images are measured in units of twice the standard deviation of the data's pixels: the data then have 1/2,
    as they have for networks. The floor is what a perfect model would score: as many of the data against as
    many others; where there are more samples than data, as many drawn from the data against all of them.

    Args:
        projections: directions averaged over.
    """

    main = "SW2"

    def __init__(self, projections: int = 128) -> None:
        within("metric", 1, 2**16, projections=projections)
        self.projections = projections
        self.samples: dict[str, list[Tensor]] = {}
        self.real: Tensor | None = None

    def check(self, shape: Sequence[int], real: int, made: int, key: str) -> None:
        """See `Judge`: its floor needs two halves of the data."""
        if real < 2:
            raise UserError(f"data: {self.main} needs at least 2 samples of the data, and there is {real}")

    def begin(self, real: Tensor, device: torch.device) -> None:
        """Keep the data."""
        if self.real is None:
            self.real = real.double().cpu()
            self.unit = 1.0 if real.is_floating_point() else 2 * self.real.std(correction=0).item()

    def update(self, name: str, samples: Tensor) -> None:
        """See some samples."""
        self.samples.setdefault(name, []).append(samples.double().cpu())

    def compute(self) -> dict[str, float]:
        """Distance of each sampler, and the floor at the same number of points."""
        assert self.real is not None
        dealt = everybodys(self.samples)
        names = dict.fromkeys(name for of_process in dealt for name in of_process)
        made = {n: torch.cat(undeal([of_process.get(n, []) for of_process in dealt])) for n in names}
        values = {name: self._distance(points) for name, points in made.items()}
        values["floor"] = self._distance(perfect(self.real, max(map(len, made.values()), default=0)))
        self.samples = {}
        return {f"{self.main}/{name}": value for name, value in values.items()}

    def protocol(self, count: int) -> dict[str, Plain]:
        """Data and directions."""
        assert self.real is not None
        sha256 = weights_sha256({"": self.real})
        return {
            "distance": f"sliced Wasserstein-2, {self.projections} directions",
            "reference_sha256": sha256,
            "reference_count": len(self.real),
        }

    def thorough(self) -> "Transport":
        """There is nothing more to say."""
        return Transport(self.projections)

    def _distance(self, points: Tensor) -> float:
        assert self.real is not None
        real = self.real[-len(points) :]
        return sliced_wasserstein2(points, real, projections=self.projections) / self.unit


def perfect(real: Tensor, n: int, seed: int = 0) -> Tensor:
    """What a perfect model makes: the first n of the data, half at most; where n is more than all, draws."""
    if n <= len(real):
        return real[: min(n or len(real), len(real) // 2)]
    return real[torch.randint(len(real), (n,), generator=torch.Generator().manual_seed(seed))]
