"""When does a loss leave what is usual at its noise level?"""

import math

import torch
from torch import Tensor

MEMORY = 100  # observations of a bin that its means reach back over, and for which it is young
PATIENCE = 5  # observations in a row that must be too high
STATE = ("mean", "distance", "seen", "streak")  # of each bin [bins]


class Spikes:
    """The running mean of the loss in each bin of σ, and the usual distance from it.

    Too high is what lies above the mean by more than `factor` times the usual distance: the running mean of
    |loss - mean|, or |mean| where that is more. So losses may be negative, bins of few samples may have heavy
    tails, and a new stage of a curriculum may move a loss by a factor of a few. In a young bin nothing is too
    high: losses of untrained networks, and of tangents that warm up, grow a hundredfold from nearly zero.
    What is too high enters the means only up to the limit: they follow a new level in time, not an explosion.

    Args:
        bins: how many.
        factor: how far is too far.
    """

    def __init__(self, bins: int, factor: float) -> None:
        self.factor, self.calm = factor, True
        self.mean, self.distance, self.seen, self.streak = torch.zeros(4, bins, dtype=torch.float64)

    def observe(self, loss: Tensor) -> Tensor:
        """Take in a step; `calm` says whether all was as usual.

        Args:
            loss: mean over the samples of each bin [bins], float64; NaN for a bin without samples.

        Returns:
            Bins that have been too high `PATIENCE` times in a row [bins], bool.
        """
        there, reach = ~loss.isnan(), self._reach()
        high = there & (loss > self.mean + reach)
        self.streak = torch.where(there, (self.streak + 1) * high, self.streak)
        self._learn(loss, there, reach)
        self.calm = not high.any()
        return self.streak >= PATIENCE

    def state_dict(self) -> dict[str, Tensor]:
        """What has been learned of each bin."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take it up."""
        for name in STATE:
            setattr(self, name, state[name])

    def _reach(self) -> Tensor:
        """How far above its mean a loss may lie."""
        reach = self.factor * torch.maximum(self.distance, self.mean.abs())
        return torch.where(self.seen < MEMORY, math.inf, reach)

    def _learn(self, loss: Tensor, there: Tensor, reach: Tensor) -> None:
        share = 1 / (self.seen + 1).clamp(max=MEMORY)
        kept = loss.clamp(self.mean - reach, self.mean + reach)
        mean = self.mean.lerp(kept, share)
        distance = self.distance.lerp((kept - mean).abs(), share)
        self.mean = torch.where(there, mean, self.mean)
        self.distance = torch.where(there, distance, self.distance)
        self.seen = self.seen + there
