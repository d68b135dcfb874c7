"""Whose output is the target? f itself with the gradient stopped, or a moving average of it."""

import copy
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from consistency.model.maps import Map
from consistency.schedule.decay import Decay


class Target(Protocol):
    """Made from f once; gives the target function of each step; updated once per optimiser step."""

    def __call__(self, f: Map) -> Map:
        """The function that supplies the target. The caller stops the gradient."""
        ...

    def restart(self, f: Map) -> None:
        """Begin again from f, whose weights have come from elsewhere."""
        ...

    def update(self, f: Map, k: int) -> None:
        """Take notice of f after optimiser step k (k = 0 is the first)."""
        ...

    def progress(self, k: int) -> dict[str, float]:
        """What of the target changes with the step, by name, for the logger."""
        ...


class StopGradient(nn.Module):
    """θ⁻ = sg θ: iCT and all that follow it (2310.14189, section 3.2); the same as μ = 0."""

    def __init__(self, f: Map) -> None:
        super().__init__()

    def __call__(self, f: Map) -> Map:
        """f itself, in the mode it is in, so that dropout masks can be shared."""
        return f

    def restart(self, f: Map) -> None:
        """Nothing to do."""

    def update(self, f: Map, k: int) -> None:
        """Nothing to do."""

    def progress(self, k: int) -> dict[str, float]:
        """μ = 0."""
        return {"mu": 0.0}


class EMATarget(nn.Module):
    """θ⁻ <- μ(k) θ⁻ + (1 - μ(k)) θ after each optimiser step (2303.01469, eq. 8). Part of the algorithm.

    Kept in float32 or better whatever the precision of the step, buffers copied.

    Args:
        f: the function to follow; θ⁻ starts as its copy.
        mu: decay as a function of the step.
    """

    def __init__(self, f: Map, mu: Decay) -> None:
        super().__init__()
        self.mu = mu
        self.shadow = copy.deepcopy(f).requires_grad_(False)

    def __call__(self, f: Map) -> Map:
        """f with θ⁻."""
        return self.shadow

    def restart(self, f: Map) -> None:
        """θ⁻ = θ."""
        self.shadow.load_state_dict(f.state_dict())

    @torch.no_grad()
    def update(self, f: Map, k: int) -> None:
        """Move θ⁻ towards θ."""
        lerp(self.shadow.parameters(), f.parameters(), 1 - self.mu(k))
        for ours, theirs in zip(self.shadow.buffers(), f.buffers(), strict=True):
            ours.copy_(theirs)

    def progress(self, k: int) -> dict[str, float]:
        """μ(k)."""
        return {"mu": self.mu(k)}


def lerp(average: Iterable[Tensor], current: Iterable[Tensor], weight: float) -> None:
    """average += weight (current - average), in place, for lists of tensors in one call."""
    torch._foreach_lerp_([a.detach() for a in average], [c.detach() for c in current], weight)
