"""Judges, which compare samples with data: `begin` with the data, `update` with samples, then `compute`."""

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

FEWEST = 4  # least samples of the data for the floor of a Fréchet distance


class Judge(Protocol):
    """Compares samples with data, both as uint8 images [B, C, H, W] or as points [B, D].

    Process r of n sees the batches r, r + n, r + 2n, …; the numbers do not depend on n.
    """

    @property
    def main(self) -> str:
        """Name of the number that ranks models; lower is better."""
        ...

    def check(self, shape: Sequence[int], real: int, made: int, key: str) -> None:
        """Check, before anything is computed, that the samples can be judged.

        Args:
            shape: of a sample, (C, H, W) of an image or (D,) of a point.
            real: number of samples of the data.
            made: number of samples to be judged.
            key: the config key with this number, for messages.

        Raises:
            UserError: samples of this shape cannot be judged, or there are too few.
        """
        ...

    def begin(self, real: Tensor, device: torch.device) -> None:
        """Process the data, uint8 [n, C, H, W] or points [n, D]; a second call does nothing."""
        ...

    def update(self, name: str, samples: Tensor) -> None:
        """Add samples of the sampler `name`."""
        ...

    def compute(self) -> dict[str, float]:
        """Numbers by `metric/name` over the samples of all processes; then the samples are dropped."""
        ...

    def protocol(self, count: int) -> dict[str, Plain]:
        """The entries of a card that describe the judge, for `count` samples; call after `begin`."""
        ...

    def thorough(self) -> "Judge":
        """A judge with all scores, the slow ones included, for evaluations outside training."""
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
        """`FID`, or `FD(name of the features)`."""
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
        """Extract the features of the data, or read them from the cache."""
        if self.real is None:
            cache = None if self.cache is None else Path(self.cache)
            self.real = reference(real, self.extractor.to(device), cache)

    def update(self, name: str, samples: Tensor) -> None:
        """Extract the features of samples."""
        self.made.setdefault(name, []).append(see(samples, self.extractor))

    def compute(self) -> dict[str, float]:
        """All scores of each sampler, and the floor of the Fréchet distance."""
        dealt = everybodys(self.made)
        self.made = {}
        return from_first(lambda: self._score(dealt))

    def protocol(self, count: int) -> dict[str, Plain]:
        """The extractor, the data and the arguments of the scores."""
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
        """The judge with Inception Score, KID, precision and recall."""
        judge = Fidelity(self.extractor, ALL, self.cache)
        judge.real = self.real  # reuse the features of the data, if there are any
        return judge

    def _score(self, dealt: list[dict[str, list[Seen]]]) -> dict[str, float]:
        """All scores, from the features of each process by sampler."""
        assert self.real is not None
        values: dict[str, float] = {}
        for name in list(dict.fromkeys(name for of_process in dealt for name in of_process)):
            made = merge_seen(undeal([of_process.pop(name, []) for of_process in dealt]))  # pop frees memory
            for score in self.scores:
                found = score(self.extractor, made, self.real)
                values |= {f"{metric}/{name}": value for metric, value in found.items()}
        return {**values, f"{self.main}/floor": self.real.floor}


class Transport:
    """Sliced Wasserstein-2 distance between points, or between images as vectors.

    The unit for images is twice the standard deviation of the data's pixels, so that the data have standard
    deviation 1/2, as for networks. The floor is the score of a perfect model: that of as many samples of the
    data against others of them, or, if there are more samples than data, of random draws from the data.

    Args:
        projections: number of directions in the mean.
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
        """Store the data, and their unit."""
        if self.real is None:
            self.real = real.double().cpu()
            self.unit = 1.0 if real.is_floating_point() else 2 * self.real.std(correction=0).item()

    def update(self, name: str, samples: Tensor) -> None:
        """Store samples."""
        self.samples.setdefault(name, []).append(samples.double().cpu())

    def compute(self) -> dict[str, float]:
        """The distance of each sampler, and the floor for the same number of points."""
        assert self.real is not None
        dealt = everybodys(self.samples)
        names = dict.fromkeys(name for of_process in dealt for name in of_process)
        made = {n: torch.cat(undeal([of_process.get(n, []) for of_process in dealt])) for n in names}
        values = {name: self._distance(points) for name, points in made.items()}
        values["floor"] = self._distance(draw_perfect(self.real, max(map(len, made.values()), default=0)))
        self.samples = {}
        return {f"{self.main}/{name}": value for name, value in values.items()}

    def protocol(self, count: int) -> dict[str, Plain]:
        """The data and the number of directions."""
        assert self.real is not None
        sha256 = weights_sha256({"": self.real})
        return {
            "distance": f"sliced Wasserstein-2, {self.projections} directions",
            "reference_sha256": sha256,
            "reference_count": len(self.real),
        }

    def thorough(self) -> "Transport":
        """A judge with the same number: there are no other scores."""
        return Transport(self.projections)

    def _distance(self, points: Tensor) -> float:
        assert self.real is not None
        real = self.real[-len(points) :]
        return sliced_wasserstein2(points, real, projections=self.projections) / self.unit


def draw_perfect(real: Tensor, n: int, seed: int = 0) -> Tensor:
    """Samples of a perfect model: the first n of the data, at most half; random draws if n exceeds m.

    Args:
        real: the data [m, ...].
        n: number of samples; 0 for half of the data.
        seed: of the draws.
    """
    if n <= len(real):
        return real[: min(n or len(real), len(real) // 2)]
    return real[torch.randint(len(real), (n,), generator=torch.Generator().manual_seed(seed))]
