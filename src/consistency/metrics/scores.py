"""Numbers from features. The formulas are torch-fidelity's, the Fréchet distance's excepted.

Inception's numbers have the names of the papers; in other features the name of the features is added.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch

from consistency.errors import UserError
from consistency.metrics.features import Extractor, Seen
from consistency.metrics.fidelity import FeatureReference, feature_moments, frechet_distance

Plain = str | int | float | bool | None


class Score(Protocol):
    """(extractor, samples as it sees them, the data as it sees them) -> numbers by name."""

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Numbers by name; none where the extractor has no logits and they are needed."""
        ...

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """What moves the numbers beside the images, for so many samples and so many of the data."""
        ...


@dataclass(frozen=True)
class Frechet:
    """FID (1706.08500), with the moments of all samples and of all data."""

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """One number."""
        return {extractor.metric_name: frechet_distance(feature_moments(made.features), real.moments)}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """Nothing to choose."""
        return {}


@dataclass(frozen=True)
class InceptionScore:
    """exp of the mean divergence between p(y|x) and p(y) (1606.03498): mean and spread over splits.

    Args:
        splits: into which the samples are divided, after a shuffle.
        seed: of the shuffle.
    """

    splits: int = 10
    seed: int = 2020

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Two numbers, where the extractor classifies."""
        from torch_fidelity.metric_isc import isc_features_to_metric

        if made.logits is None:
            return {}
        found = [
            isc_features_to_metric(made.logits[part], 1, False)["inception_score_mean"]
            for part in self._parts(len(made.logits))  # all at once take three times the logits in float64
        ]
        name = extractor.named("IS", "IS")
        return {name: float(np.mean(found)), f"{name} ±": float(np.std(found))}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """Splits and seed."""
        return {"is_splits": self._splits(made), "is_seed": self.seed}

    def _parts(self, made: int) -> list[np.ndarray]:
        """torch-fidelity's splits, shuffled as it shuffles."""
        order, splits = np.random.RandomState(self.seed).permutation(made), self._splits(made)
        return [order[a:b] for a, b in pairwise(made * i // splits for i in range(splits + 1))]

    def _splits(self, made: int) -> int:
        return min(self.splits, made)


@dataclass(frozen=True)
class KernelDistance:
    """KID (1801.01401): unbiased MMD² with (x·y/d + 1)³, mean and spread over random subsets.

    Args:
        subsets: how many.
        size: of each, and no more than there are.
        seed: of the subsets.
    """

    subsets: int = 100
    size: int = 1000
    seed: int = 2020

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Two numbers."""
        from torch_fidelity.metric_kid import kid_features_to_metric

        size = self._size(len(made.features), len(real))
        options = {"kid_subsets": self.subsets, "kid_subset_size": size, "rng_seed": self.seed}
        found = kid_features_to_metric(made.features, real.features, verbose=False, **options)
        name = extractor.named("KD", "KID")
        mean, std = (found[f"kernel_inception_distance_{what}"] for what in ("mean", "std"))
        return {name: mean, f"{name} ±": std}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """Subsets, their size, and the seed."""
        size = self._size(made, real)
        return {"kid_subsets": self.subsets, "kid_subset_size": size, "kid_seed": self.seed}

    def _size(self, made: int, real: int) -> int:
        return min(self.size, made, real)


@dataclass(frozen=True)
class PrecisionRecall:
    """Improved precision and recall (1904.06991): shares of samples, and of data, inside the other's balls.

    The cost grows with the square of the number of images, and so it is bounded.

    Args:
        neighbours: k of the k-th nearest neighbour, whose distance is a ball's radius.
        most: images of either kind, drawn from all; None for all, as the papers' 50,000.
        seed: of the draw.
        rows: distances are computed for so many images at a time, to all others.
    """

    neighbours: int = 3
    most: int | None = 10_000
    seed: int = 2020
    rows: int = 1000

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Two numbers."""
        from torch_fidelity.metric_prc import prc_features_to_metric

        if min(len(made.features), len(real)) <= self.neighbours:
            raise UserError(f"precision and recall need more than {self.neighbours} images of each kind")
        options = {"prc_neighborhood": self.neighbours, "prc_batch_size": self.rows, "save_cpu_ram": True}
        some = (self._some(made.features), self._some(real.features))
        found = prc_features_to_metric(*some, verbose=False, **options)
        return {extractor.named(name, name): found[name] for name in ("precision", "recall")}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """k, and how many images."""
        counts = {"prc_samples": self._count(made), "prc_reference": self._count(real)}
        return {"prc_neighbours": self.neighbours, **counts, "prc_seed": self.seed}

    def _count(self, n: int) -> int:
        return n if self.most is None else min(self.most, n)

    def _some(self, features: torch.Tensor) -> torch.Tensor:
        """Features [n, d] -> [at most `most`, d], in the order they lie."""
        if self._count(len(features)) == len(features):
            return features
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(features), generator=generator)[: self.most]
        return features[drawn.sort().values]


ALL: tuple[Score, ...] = (Frechet(), InceptionScore(), KernelDistance(), PrecisionRecall())
