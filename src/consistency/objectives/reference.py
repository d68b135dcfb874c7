"""Stable consistency tuning (2410.18958): the velocity of a posterior mean in place of one sample's."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.data.loader import Excerpt
from consistency.errors import at_least
from consistency.model.condition import Condition
from consistency.tensor import expand, squared_norm

BLOCK = 2**20  # entries of a block of the reference, or of its table of weights: 8 MB, reused by the next
LOWEST = torch.finfo(torch.float64).min  # below every logit; -inf, less itself, would be no number


@dataclass(frozen=True, eq=False)
class ReferenceFlow:
    """As if the data were a reference batch: x̄ = Σ w_i x_i with w_i ∝ N(x_t; x_i, t²), and (x_t - x̄)/t.

    Where x and the reference are independent draws of the same data, x̄ is the mean of x given x_t and the set
    of them all. So, given x_t, it is as unbiased as the x of `DataFlow`, and varies no more.

    Computed in float64, which neither autocast nor TF32 touches: a logit at t = 0.002 is the difference of
    squared norms in units of 4e-6. Returned in the dtype of x_t.

    Args:
        x: the reference [M, ...], encoded like the batch.
        label: class of each, long [M]; where the call has labels too, only the same class counts.
        own: count x too. False where the reference holds it already, as all of the data do.
    """

    x: Tensor
    label: Tensor | None
    own: bool = True

    @torch.no_grad()
    def velocity(self, x_t: Tensor, t: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """(x_t - x̄)/t."""
        mean = self.mean(x_t, t, x, c)
        return ((x_t - mean) / expand(t, mean)).to(x_t.dtype)

    @torch.no_grad()
    def step(self, x_t: Tensor, t: Tensor, r: Tensor, x: Tensor, z: Tensor, c: Condition) -> Tensor:
        """x_t + (r - t)(x_t - x̄)/t, written so that r = 0 gives x̄ itself."""
        mean = self.mean(x_t, t, x, c)
        return (mean + expand(r / t, mean) * (x_t - mean)).to(x_t.dtype)

    def mean(self, x_t: Tensor, t: Tensor, x: Tensor, c: Condition) -> Tensor:
        """x̄ [B, ...] in float64, for t [B] > 0, by blocks of the reference so that memory is bounded."""
        y, precision = x_t.double().flatten(1), t.to(x_t.device).double()[:, None] ** -2
        average = self._start(y, precision, x.double().flatten(1))
        rows = max(1, BLOCK // max(y.shape))
        for first in range(0, len(self.x), rows):
            block = self.x[first : first + rows].double().flatten(1)
            logit = precision * (y @ block.T - squared_norm(block) / 2)  # without what all of them share
            if self.label is not None and c.label is not None:
                logit.masked_fill_(c.label[:, None] != self.label[first : first + rows], -torch.inf)
            average = average.joined(logit, block)
        return (average.sum / average.mass).reshape(x_t.shape)

    def _start(self, y: Tensor, precision: Tensor, x: Tensor) -> "Average":
        """The own sample, or nothing yet."""
        if self.own:
            fit = (y * x).sum(1, keepdim=True) - squared_norm(x)[:, None] / 2
            return Average(precision * fit, torch.ones_like(fit), x)
        return Average(torch.full_like(precision, LOWEST), torch.zeros_like(precision), torch.zeros_like(x))


class Average(NamedTuple):
    """Σ p_i x_i and Σ p_i over the samples met so far, in units of the greatest p, so that none overflows."""

    top: Tensor  # ln p of the greatest [B, 1]
    mass: Tensor  # [B, 1]
    sum: Tensor  # [B, D]

    def joined(self, logit: Tensor, x: Tensor) -> "Average":
        """With more samples x [n, D] of weights ln p [B, n]."""
        top = torch.maximum(self.top, logit.amax(1, keepdim=True))
        kept, p = (self.top - top).exp(), (logit - top).exp()
        return Average(top, kept * self.mass + p.sum(1, keepdim=True), kept * self.sum + p @ x)


@dataclass(frozen=True)
class Reference:
    """`ReferenceFlow` for each step: over all of the data where they are few, else over a part drawn anew.

    Args:
        size: images of the part. Of many classes, each finds only its own among them.
    """

    size: int = 4096

    def __post_init__(self) -> None:
        at_least("flow", size=self.size)

    def given(self, some: Callable[[int], Excerpt]) -> ReferenceFlow:
        """The flow over `size` samples of the data."""
        part = some(self.size)
        return ReferenceFlow(part.x, part.c.label, own=not part.whole)
