"""Edits of images, the options of `edit=`: (f, x, plan, draws, c) -> before, after."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from consistency.errors import UserError, at_least, call_configured, positive
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.sampling.editing import Changed, EditPlan, denoise, redraw, restore
from consistency.sampling.operators import BoxSuperResolution, Inpainting, Maker, measure
from consistency.schedule.draws import Draws


@dataclass(frozen=True)
class Restore:
    """Keeps what an operator measures of x, and samples the rest anew.

    Args:
        operator: (C, H, W) -> the operator A of the measurement.
    """

    operator: Maker

    @property
    def of_pixels(self) -> bool:
        """True: operators act on pixels."""
        return True

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before is A⁺y, the pseudo-inverse of the measurement."""
        A = call_configured("operator", self.operator, x.shape[1:])
        y = measure(A, x, draws)
        return Changed(A.pseudo_inverse(y), restore(f, A, y, plan, draws, c))


def inpaint(known: Tensor) -> Restore:
    """An edit that keeps the known pixels, and samples the others anew.

    Args:
        known: bool [H, W], true where a pixel is kept.
    """
    return Restore(partial(Inpainting, known=partial(check_mask, known)))


def check_mask(known: Tensor, shape: Sequence[int]) -> Tensor:
    """Refuse a mask that does not fit images (C, H, W); returns the mask.

    Raises:
        UserError: its type is not bool, or its size is another.
    """
    if known.dtype != torch.bool or tuple(known.shape) != tuple(shape[1:]):
        raise UserError(f"known is {known.dtype} {list(known.shape)}, and must be bool {list(shape[1:])}")
    return known


@dataclass(frozen=True)
class Stroke:
    """Turns a coarse painting into an image: adds noise of level σ, and samples through the plan (SDEdit).

    Args:
        sigma: noise level; higher for images closer to the data, lower for images closer to the painting.
        squares: side in pixels of the squares of which paintings are made from the input first, in four grey
            levels; 0 if the input is a painting.
    """

    sigma: float
    squares: int = 0

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)
        at_least("task.change", 0, squares=self.squares)

    @property
    def of_pixels(self) -> bool:
        """Whether it makes paintings, which needs pixels; a given painting may be encoded."""
        return self.squares > 0

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before is the painting."""
        check_sigma(self.sigma, plan)
        if self.squares and (self.squares < 2 or any(side % self.squares for side in x.shape[-2:])):
            size = "x".join(map(str, x.shape[-2:]))
            raise UserError(f"task.change.squares={self.squares} must be 0, or 2 or more and divide {size}")
        painting = paint(x, self.squares, plan) if self.squares else x
        return Changed(painting, redraw(f, painting, plan.begun_at(self.sigma), draws, c))


@dataclass(frozen=True)
class Vary:
    """Makes images similar to x: adds noise of one level, and denoises in one call.

    Args:
        sigma: noise level; the higher, the less similar.
    """

    sigma: float

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)

    @property
    def of_pixels(self) -> bool:
        """False: noise is added to encoded images."""
        return False

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before is x."""
        check_sigma(self.sigma, plan)
        return Changed(x, redraw(f, x, replace(plan, sigmas=[self.sigma]), draws, c))


@dataclass(frozen=True)
class Denoise:
    """Removes Gaussian noise of a known level, in one call.

    Args:
        sigma: level of the noise in units of the data: grey levels over 127.5, where data span [-1, 1].
        add: whether to add noise of that level first, for clean images.
    """

    sigma: float
    add: bool = False

    def __post_init__(self) -> None:
        positive("task.change", sigma=self.sigma)

    @property
    def of_pixels(self) -> bool:
        """True: the noise is on pixels."""
        return True

    def __call__(self, f: DenoiserLike, x: Tensor, plan: EditPlan, draws: Draws, c: Condition) -> Changed:
        """Before is the noisy image."""
        check_sigma(self.sigma, plan)
        noisy = x + self.sigma * draws.normal(x) if self.add else x
        return Changed(noisy, denoise(f, noisy, self.sigma, c))


def paint(x: Tensor, squares: int, plan: EditPlan, levels: int = 4) -> Tensor:
    """Images [B, C, H, W] of their means over squares, rounded to so many grey levels."""
    A = BoxSuperResolution(x.shape[1:], squares)
    share = (A.pseudo_inverse(A.forward(x)) - plan.low) / (plan.high - plan.low) * (levels - 1)
    return plan.low + share.round() * (plan.high - plan.low) / (levels - 1)


def check_sigma(sigma: float, plan: EditPlan) -> None:
    """Refuse a noise level outside those that the model was trained on.

    Raises:
        UserError: it is not in (sigma_min, sigma_max].
    """
    if not plan.sigma_min < sigma <= plan.sigma_max:
        raise UserError(
            f"task.change.sigma={sigma} must lie above {plan.sigma_min} and at most at {plan.sigma_max}, "
            "the levels of this model"
        )
