"""Decays of moving averages, μ as a pure function of the optimiser step."""

import math
from dataclasses import dataclass
from typing import Protocol

from consistency.errors import UserError, at_least, positive
from consistency.schedule.curriculum import GridSize


class Decay(Protocol):
    """k -> μ, the weight of the past."""

    def __call__(self, k: int) -> float:
        """μ at optimiser step k (k = 0 is the first)."""
        ...


@dataclass(frozen=True)
class Constant:
    """One μ, ramped up on request.

    An average starts as a copy of the untrained weights, which after n steps have μ^n of it: 90 % after 100
    with μ = 0.999. EDM's ramp (2206.00364, its training loop) bounds the half-life by a share of the steps
    so far: the start is forgotten at once, and from step ln 0.5 / (rampup ln μ) on the decay is μ itself.

    Args:
        mu: decay, 0 <= mu < 1: 0.95 for the target of CD on ImageNet-64 (2303.01469, table 3), 0.99993 for
            the evaluation average of iCT on CIFAR-10 (2310.14189).
        rampup: the half-life in steps, ln 0.5 / ln μ, is at most this share of the steps so far, greater
            than 0; None for no ramp.
    """

    mu: float
    rampup: float | None = None

    def __post_init__(self) -> None:
        check_decay("mu", self.mu)
        if self.rampup is not None:
            positive("ema", rampup=self.rampup)

    def __call__(self, k: int) -> float:
        """μ(k): the constant, or less during the ramp."""
        return self.mu if self.rampup is None else min(self.mu, 0.5 ** (1 / (self.rampup * (k + 1))))


@dataclass(frozen=True)
class Adaptive:
    """μ(k) = exp(s0 ln μ0 / N(k)) (2303.01469, app. C), the target network's decay in consistency training.

    The paper's formula, with N(k) the number of grid points. OpenAI's code divides by N(k) - 1 instead: 0.81
    in place of 0.9 at the first step, indistinguishable at the end.

    Args:
        curriculum: step k -> N.
        s0: grid points at the start.
        mu0: decay at the start, 0 <= mu0 < 1.
    """

    curriculum: GridSize
    s0: int = 2
    mu0: float = 0.9

    def __post_init__(self) -> None:
        at_least("target.mu", s0=self.s0)
        check_decay("target.mu.mu0", self.mu0)

    def __call__(self, k: int) -> float:
        """μ(k)."""
        return math.exp(self.s0 * math.log(self.mu0) / self.curriculum(k)) if self.mu0 else 0.0


@dataclass(frozen=True)
class HalfLife:
    """EDM's average (2206.00364, app. F.2; its training loop): a half-life in images, ramped up.

    Half-lives count images, not steps: 0.99994322 is 50 million images at batch 4096 and 3.1 million at 256.

    Args:
        images: half-life in images.
        batch: images per optimiser step.
        rampup: the half-life is at most this share of the images seen so far; None for no ramp.
    """

    images: float
    batch: int
    rampup: float | None = 0.05

    def __post_init__(self) -> None:
        positive("ema", images=self.images, batch=self.batch)
        if self.rampup is not None:
            positive("ema", rampup=self.rampup)

    def __call__(self, k: int) -> float:
        """μ(k) = 2^(-batch / half-life)."""
        seen = (k + 1) * self.batch
        images = self.images if self.rampup is None else min(self.images, self.rampup * seen)
        return 0.5 ** (self.batch / images)


def check_decay(key: str, value: float) -> None:
    """Refuse a decay outside [0, 1)."""
    if not 0 <= value < 1:
        raise UserError(f"{key}={value} must be at least 0 and below 1")
