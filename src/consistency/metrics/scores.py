"""Scores from features. All but the Fréchet distance are computed by torch-fidelity.

With Inception's features, scores have the names of the papers; with others, the name of the features is
added.
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
    """(extractor, features of the samples, features of the data) -> numbers by name."""

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Numbers by name; empty if the score needs logits and the extractor has none."""
        ...

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """The entries of a card for this score, for `made` samples and `real` samples of the data."""
        ...


@dataclass(frozen=True)
class Frechet:
    """FID (1706.08500) between all samples and all data."""

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """The distance."""
        return {extractor.metric_name: frechet_distance(feature_moments(made.features), real.moments)}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """Empty: there are no options."""
        return {}


@dataclass(frozen=True)
class InceptionScore:
    """Inception Score (1606.03498): exp of the mean KL divergence of p(y|x) from p(y), over splits.

    Args:
        splits: number of parts of the shuffled samples, over which mean and spread are taken.
        seed: of the shuffle.
    """

    splits: int = 10
    seed: int = 2020

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Mean and standard deviation over the splits; empty if the extractor does not classify."""
        from torch_fidelity.metric_isc import isc_features_to_metric

        if made.logits is None:
            return {}
        found = [
            isc_features_to_metric(made.logits[part], 1, False)["inception_score_mean"]
            for part in self._parts(len(made.logits))  # in parts, to save memory
        ]
        name = extractor.named("IS", "IS")
        return {name: float(np.mean(found)), f"{name} ±": float(np.std(found))}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """Number of splits, and the seed."""
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
        subsets: number of subsets.
        size: of a subset, at most.
        seed: of the choice of subsets.
    """

    subsets: int = 100
    size: int = 1000
    seed: int = 2020

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Mean and standard deviation over the subsets."""
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
    """Improved precision and recall (1904.06991): shares of samples near data, and of data near samples.

    "Near" is within the distance of a neighbour's own k-th nearest neighbour. The cost grows with the square
    of the number of images, which is therefore limited.

    Args:
        neighbours: k.
        most: number of samples and of data to use, drawn at random; None for all (50,000 in the papers).
        seed: of the draw.
        rows: number of images whose distances to all others are computed at a time.
    """

    neighbours: int = 3
    most: int | None = 10_000
    seed: int = 2020
    rows: int = 1000

    def __call__(self, extractor: Extractor, made: Seen, real: FeatureReference) -> dict[str, float]:
        """Precision and recall, in [0, 1].

        Raises:
            UserError: there are no more than k samples or data.
        """
        from torch_fidelity.metric_prc import prc_features_to_metric

        if min(len(made.features), len(real)) <= self.neighbours:
            raise UserError(f"precision and recall need more than {self.neighbours} images of each kind")
        options = {"prc_neighborhood": self.neighbours, "prc_batch_size": self.rows, "save_cpu_ram": True}
        some = (self._some(made.features), self._some(real.features))
        found = prc_features_to_metric(*some, verbose=False, **options)
        return {extractor.named(name, name): found[name] for name in ("precision", "recall")}

    def protocol(self, made: int, real: int) -> dict[str, Plain]:
        """k, the numbers of samples and data used, and the seed."""
        counts = {"prc_samples": self._count(made), "prc_reference": self._count(real)}
        return {"prc_neighbours": self.neighbours, **counts, "prc_seed": self.seed}

    def _count(self, n: int) -> int:
        return n if self.most is None else min(self.most, n)

    def _some(self, features: torch.Tensor) -> torch.Tensor:
        """At most `most` rows of features [n, d], drawn at random and kept in order."""
        if self._count(len(features)) == len(features):
            return features
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(features), generator=generator)[: self.most]
        return features[drawn.sort().values]


ALL: tuple[Score, ...] = (Frechet(), InceptionScore(), KernelDistance(), PrecisionRecall())
