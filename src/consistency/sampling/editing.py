"""What one network call per level can do to an image: complete it, redraw it, walk between two.

The editor of 2303.01469 (algorithm 4): denoise, put back what is known, re-noise to the next level. x and the
images that come back are [B, C, H, W] in units of the data, f any denoiser. No gradient is kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike, denoise_at
from consistency.sampling.levels import fresh
from consistency.sampling.operators import LinearOperator, consistent
from consistency.schedule.draws import Draws
from consistency.tensor import expand


@dataclass(frozen=True)
class EditPlan:
    """Levels that an edit goes through, and what images are like.

    Args:
        sigmas: falling; a network call each.
        sigma_min: ε, the noise that a clean image is taken to have.
        sigma_max: the highest level that f has learned.
        sigma_data: standard deviation of the data.
        low: the least value of a pixel.
        high: the greatest.
    """

    sigmas: Sequence[float]
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    low: float = -1.0
    high: float = 1.0

    def begun_at(self, sigma: float) -> "EditPlan":
        """From another level on, through those below it."""
        return replace(self, sigmas=[sigma, *(tau for tau in self.sigmas if tau < sigma)])

    def spread(self, tau: float) -> float:
        """How far a guess made at level τ may be off: the posterior's deviation, were the data Gaussian."""
        return self.sigma_data * tau / (self.sigma_data**2 + tau**2) ** 0.5


class Changed(NamedTuple):
    """Images [B, C, H, W] in units of the data."""

    before: Tensor  # the input of the model, such as the known pixels
    after: Tensor


class Change(Protocol):
    """(f, x, plan, draws, c) -> before, after."""

    @property
    def of_pixels(self) -> bool:
        """Whether it means something for pixels alone, and not for what another codec makes of images."""
        ...

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Change images x [B, C, H, W]."""
        ...


@torch.no_grad()
def restore(
    f: DenoiserLike,
    A: LinearOperator,
    y: Tensor,
    plan: EditPlan,
    draws: Draws,
    c: Condition = NONE,
) -> Tensor:
    """Images that fit measurements y [B, ...]: where those are exact, so is the fit of what comes back.

    It begins with A⁺y and noise of the full first level. A guess is weighed against noisy measurements by
    the deviation of its posterior, as in ΠGDM (openreview 9_gsMA8MRKQ).
    """
    x = A.pseudo_inverse(y)
    for tau in plan.sigmas:
        x = consistent(A, renoised(f, x, tau, plan, draws, c), y, plan.spread(tau))
    return x


@torch.no_grad()
def redraw(f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition = NONE) -> Tensor:
    """Images like x, down from the plan's first level: SDEdit (2108.01073) where x is a stroke painting.

    With a single level this makes variations of x, larger ones the higher it is.
    """
    for tau in plan.sigmas:
        x = renoised(f, x, tau, plan, draws, c)
    return x


def renoised(f: DenoiserLike, x: Tensor, tau: float, plan: EditPlan, draws: Draws, c: Condition) -> Tensor:
    """f of x re-noised to level τ, inside the range of pixels."""
    tau, added = fresh(tau, plan.sigma_min)
    return denoise_at(f, x + added * draws.normal(x), tau, c).clamp(plan.low, plan.high)


@torch.no_grad()
def denoise(f: DenoiserLike, x: Tensor, sigma: float, c: Condition = NONE) -> Tensor:
    """f(x, σ) of images that carry noise of the true level σ already: one call."""
    return denoise_at(f, x, sigma, c)


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    """Unit noise between a and b [B, ...], along each sample's great circle; the ends are exactly a and b.

    Linear interpolation would make noise too small in between, and f(σ z, σ) would get an input of another σ.
    """
    if share in (0.0, 1.0):
        return b if share else a
    cosine = torch.nn.functional.cosine_similarity(a.double().flatten(1), b.double().flatten(1))
    angle = cosine.clamp(-1.0, 1.0).acos()
    straight = angle.sin() < 1e-6  # the circle is not defined, or so short that a line will do
    sine = angle.sin().where(~straight, 1.0)
    first = torch.where(straight, 1.0 - share, ((1 - share) * angle).sin() / sine)
    second = torch.where(straight, share, (share * angle).sin() / sine)
    return expand(first, a) * a + expand(second, b) * b


@torch.no_grad()
def walk_noise(
    f: DenoiserLike, stops: Sequence[Tensor], frames: int, sigma: float, c: Condition = NONE
) -> list[Tensor]:
    """Images along the way from noise to noise, one call each.

    Args:
        f: a denoiser.
        stops: unit noise [B, ...] that is passed, at least two.
        frames: from a stop to the next, the latter not counted.
        sigma: level of the noise.
        c: classes of the samples, [B].

    Returns:
        Images [B, ...] of every frame, those of all stops among them.
    """
    path = [slerp(a, b, i / frames) for a, b in pairwise(stops) for i in range(frames)]
    return [denoise(f, sigma * z, sigma, c) for z in [*path, stops[-1]]]


def image_mark(image: Tensor) -> int:
    """A number of a uint8 image [C, H, W], from its content: images that are alike have noise that is."""
    return crc32(image.numpy().tobytes())
