"""Detection of losses that are unusually high for their noise level."""

import math

import torch
from torch import Tensor

MEMORY = 100  # observations of a bin in its running means; a bin with fewer raises no alarm
PATIENCE = 5  # observations in a row that must be too high
STATE = ("mean", "distance", "seen", "streak")  # tensors [bins]


class Spikes:
    """The running mean of the loss in each bin of σ, and the usual distance from it.

    A loss is too high if it exceeds the mean by more than `factor` times the usual distance: the running mean
    of |loss - mean|, or |mean| if that is larger. So losses may be negative, bins with few samples may have
    heavy tails, and a new stage of a curriculum may change a loss by a small factor. In the first `MEMORY`
    observations of a bin no loss is too high: losses of untrained networks, and of tangents that warm up,
    grow a hundredfold from nearly zero. Losses above the limit enter the means as the limit, so that the
    means follow a lasting change slowly and an explosion hardly.

    Args:
        bins: number of bins.
        factor: limit, as a multiple of the usual distance.
    """

    def __init__(self, bins: int, factor: float) -> None:
        self.factor, self.calm = factor, True
        self.mean, self.distance, self.seen, self.streak = torch.zeros(4, bins, dtype=torch.float64)

    def observe(self, loss: Tensor) -> Tensor:
        """Process the losses of a step, and set `calm` to whether none was too high.

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
        """The statistics of each bin."""
        return {name: getattr(self, name) for name in STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore the statistics."""
        for name in STATE:
            setattr(self, name, state[name])

    def _reach(self) -> Tensor:
        """The limit above the mean for each bin [bins]; infinite during the first observations."""
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
