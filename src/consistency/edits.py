"""What may be done to an image, as `edit=` has it: (f, x, plan, draws, c) -> before, after."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple, Protocol
from zlib import crc32

import torch
from torch import Tensor

from consistency.errors import UserError, at_least, call_configured, positive
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.sampling.editing import EditPlan, denoise, redraw, restore
from consistency.sampling.operators import BoxSuperResolution, Inpainting, Maker, measure
from consistency.schedule.draws import Draws


class Changed(NamedTuple):
    """Images [B, C, H, W] in units of the data."""

    before: Tensor  # all that the model was shown
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


@dataclass(frozen=True)
class Restore:
    """Forgets of x what the operator does not measure, and makes it anew; what was measured stays.

    Args:
        operator: (C, H, W) -> what is measured.
    """

    operator: Maker

    @property
    def of_pixels(self) -> bool:
        """What is measured are pixels."""
        return True

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before: A⁺y."""
        A = call_configured("operator", self.operator, x.shape[1:])
        y = measure(A, x, draws)
        return Changed(A.pseudo_inverse(y), restore(f, A, y, plan, draws, c))


def inpaint(known: Tensor) -> Restore:
    """Keeps the known pixels, and makes the others anew.

    Args:
        known: bool [H, W], true where a pixel stays as it is.
    """
    return Restore(partial(Inpainting, known=partial(check_mask, known)))


def check_mask(known: Tensor, shape: Sequence[int]) -> Tensor:
    """The mask, if it is one for images (C, H, W).

    Raises:
        UserError: it is of another type or size.
    """
    if known.dtype != torch.bool or tuple(known.shape) != tuple(shape[1:]):
        raise UserError(f"known is {known.dtype} {list(known.shape)}, and must be bool {list(shape[1:])}")
    return known


@dataclass(frozen=True)
class Stroke:
    """Turns a coarse painting into an image: from noise of level σ on it down through the plan (SDEdit).

    Args:
        sigma: higher for images that are more like the data, lower for ones that are more like the painting.
        squares: paint the images first, in four grey levels and squares of so many pixels, to try it on clean
            ones; 0 for paintings as they come.
    """

    sigma: float
    squares: int = 0

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)
        at_least("task.change", 0, squares=self.squares)

    @property
    def of_pixels(self) -> bool:
        """Where it paints itself: a painting that is given may be encoded."""
        return self.squares > 0

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before: the painting."""
        check_sigma(self.sigma, plan)
        if self.squares and (self.squares < 2 or any(side % self.squares for side in x.shape[-2:])):
            size = "x".join(map(str, x.shape[-2:]))
            raise UserError(f"task.change.squares={self.squares} must be 0, or 2 or more and divide {size}")
        painting = paint(x, self.squares, plan) if self.squares else x
        return Changed(painting, redraw(f, painting, plan.begun_at(self.sigma), draws, c))


@dataclass(frozen=True)
class Vary:
    """Makes images like x: re-noises to one level, and denoises in one call.

    Args:
        sigma: the higher, the less alike.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)

    @property
    def of_pixels(self) -> bool:
        """Whatever networks see may be noised."""
        return False

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before: x."""
        check_sigma(self.sigma, plan)
        return Changed(x, redraw(f, x, replace(plan, sigmas=[self.sigma]), draws, c))


@dataclass(frozen=True)
class Denoise:
    """Takes away Gaussian noise of a known level, in one call.

    Args:
        sigma: of the noise, in units of the data: grey levels over 127.5, where data span [-1, 1].
        add: noise of that level first, to try it on clean images.
    """

    sigma: float
    add: bool = False

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)

    @property
    def of_pixels(self) -> bool:
        """The noise is that of the pixels."""
        return True

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before: the noisy image."""
        check_sigma(self.sigma, plan)
        noisy = x + self.sigma * draws.normal(x) if self.add else x
        return Changed(noisy, denoise(f, noisy, self.sigma, c))


def paint(x: Tensor, squares: int, plan: EditPlan, levels: int = 4) -> Tensor:
    """Images [B, C, H, W] as means over squares, each at the nearest of so many levels of grey."""
    A = BoxSuperResolution(x.shape[1:], squares)
    share = (A.pseudo_inverse(A.forward(x)) - plan.low) / (plan.high - plan.low) * (levels - 1)
    return plan.low + share.round() * (plan.high - plan.low) / (levels - 1)


def check_sigma(sigma: float, plan: EditPlan) -> None:
    """Refuse a level that the model has not learned."""
    if not plan.sigma_min < sigma <= plan.sigma_max:
        raise UserError(
            f"task.change.sigma={sigma} must lie above {plan.sigma_min} and at most at {plan.sigma_max}, "
            "the levels of this model"
        )


def image_mark(image: Tensor) -> int:
    """A number of a uint8 image [C, H, W], from its content: images that are alike have noise that is."""
    return crc32(image.numpy().tobytes())
