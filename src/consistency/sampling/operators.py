"""Linear measurements of images, y = A x + noise: operators A, and what follows from y about x.

x is [B, C, H, W] in units of the data, y [B, ...] whatever the operator makes of it. What makes an operator
takes the shape (C, H, W) of an image first, so that a config need not know it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from consistency.errors import UserError, at_least, check_seed
from consistency.sampling.masks import Known
from consistency.schedule.draws import Draws

LUMA = (0.2989, 0.587, 0.114)  # of red, green and blue, as the editors of 2303.01469 weigh them
Shape = Sequence[int]  # (C, H, W) of one image


class LinearOperator(Protocol):
    """A, and the four ways back."""

    noise: float  # standard deviation of what was added to A x; 0 where y is exact

    def forward(self, x: Tensor) -> Tensor:
        """A x: images [B, C, H, W] -> measurements [B, ...]."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """A'y, for which <A x, y> = <x, A'y>."""
        ...

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺y: of all images that fit y best, the smallest."""
        ...

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """The image nearest to x that fits y exactly."""
        ...

    def proximal(self, x: Tensor, y: Tensor, gamma: float) -> Tensor:
        """The u that makes ‖u - x‖² + γ‖A u - y‖² least; γ is the variance of x over that of y."""
        ...


Maker = Callable[[Shape], LinearOperator]  # (C, H, W) -> A


def measure(A: LinearOperator, x: Tensor, draws: Draws) -> Tensor:
    """y = A x + noise, from images [B, C, H, W]."""
    y = A.forward(x)
    return y + A.noise * draws.normal(y) if A.noise else y


def consistent(A: LinearOperator, x: Tensor, y: Tensor, spread: float) -> Tensor:
    """The data-consistency step: x made to fit y, exactly if y is exact, else as far as both are believed.

    Args:
        A: what was measured.
        x: guessed images [B, C, H, W].
        y: measurements [B, ...].
        spread: standard deviation of the guess.
    """
    return A.proximal(x, y, (spread / A.noise) ** 2) if A.noise else A.project(x, y)


class Operator(ABC):
    """What all operators share.

    Args:
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, noise: float = 0.0) -> None:
        at_least("operator", 0, noise=noise)
        self.noise = noise

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A'y."""

    @abstractmethod
    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A⁺y."""

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """x + A⁺(y - A x)."""
        return x + self.pseudo_inverse(y - self.forward(x))


class Tight(Operator):
    """An operator whose rows are orthogonal and of one length: A A' = c I.

    Args:
        c: squared length of a row.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, c: float, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.c = c

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """A'y/c."""
        return self.adjoint(y) / self.c

    def proximal(self, x: Tensor, y: Tensor, gamma: float) -> Tensor:
        """x + γ/(1 + γc) A'(y - A x)."""
        return x + gamma / (1 + gamma * self.c) * self.adjoint(y - self.forward(x))


class Inpainting(Tight):
    """The known pixels, all channels of them, one after the other: y [B, C, n].

    Args:
        shape: (C, H, W) of an image.
        known: (C, H, W) -> mask [H, W], where **true is known** and false is to be made.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, known: Known, noise: float = 0.0) -> None:
        super().__init__(1.0, noise)
        self.shape, self.known = tuple(shape), known(shape)
        if not self.known.any():
            raise UserError("the mask knows no pixel: white is known, black is to be made")

    def forward(self, x: Tensor) -> Tensor:
        """The pixels that are known."""
        return x[..., self.known.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """The pixels where they belong, 0 elsewhere."""
        return self.project(y.new_zeros(len(y), *self.shape), y)

    def project(self, x: Tensor, y: Tensor) -> Tensor:
        """x with the known pixels in their places, to the bit."""
        x = x.clone()
        x[..., self.known.to(x.device)] = y
        return x


class BoxSuperResolution(Tight):
    """Means over patches of p x p pixels: y [B, C, H/p, W/p].

    Args:
        shape: (C, H, W) of an image.
        factor: p, which divides H and W.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, factor: int, noise: float = 0.0) -> None:
        check_factor(shape, factor)
        super().__init__(1 / factor**2, noise)
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        return avg_pool2d(x, self.factor)

    def adjoint(self, y: Tensor) -> Tensor:
        """Each value spread over its patch."""
        p = self.factor
        return y.repeat_interleave(p, -1).repeat_interleave(p, -2) / p**2


def check_factor(shape: Shape, factor: int) -> None:
    """Refuse patches that do not fill the image."""
    _, H, W = shape
    if factor < 2 or H % factor or W % factor:
        raise UserError(f"operator.factor={factor} must be 2 or more and divide the image, {H}x{W} pixels")


class Grey(Tight):
    """The brightness of colours: y [B, 1, H, W].

    Args:
        shape: (3, H, W) of an image.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, noise: float = 0.0) -> None:
        if shape[0] != 3:
            raise UserError(
                f"a model of {shape[0]} channel has no colours to make: use one trained on colour images"
            )
        super().__init__(sum(w**2 for w in LUMA), noise)

    def forward(self, x: Tensor) -> Tensor:
        """The channels' weighted sum."""
        return torch.einsum("bchw,c->bhw", x, x.new_tensor(LUMA))[:, None]

    def adjoint(self, y: Tensor) -> Tensor:
        """Brightness times the weight of each channel."""
        return y * y.new_tensor(LUMA).reshape(-1, 1, 1)


class CompressedSensing(Tight):
    """Some coefficients of a cosine transform of x with random signs: y [B, C, n].

    The signs spread every image over all frequencies, so that no few of them hold more than others.

    Args:
        shape: (C, H, W) of an image.
        share: of the coefficients that are measured, 0 < share <= 1.
        seed: of the signs, and of the choice.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, share: float, seed: int = 0, noise: float = 0.0) -> None:
        super().__init__(1.0, noise)
        if not 0 < share <= 1:
            raise UserError(f"operator.share={share} must lie above 0 and at most at 1")
        check_seed("operator.seed", seed)
        *_, H, W = shape
        generator = torch.Generator().manual_seed(seed)
        self.signs = (2 * torch.randint(2, (H, W), generator=generator) - 1).double()
        self.chosen = torch.randperm(H * W, generator=generator)[: max(1, round(share * H * W))]
        self.rows, self.columns = cosines(H), cosines(W)

    def forward(self, x: Tensor) -> Tensor:
        """The coefficients that were chosen."""
        spectrum = self.rows.to(x) @ (self.signs.to(x) * x) @ self.columns.to(x).T
        return spectrum.flatten(-2)[..., self.chosen.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """Back from the chosen coefficients, the others being 0."""
        spectrum = y.new_zeros(*y.shape[:-1], self.signs.numel())
        spectrum[..., self.chosen.to(y.device)] = y
        spectrum = spectrum.unflatten(-1, self.signs.shape)
        return self.signs.to(y) * (self.rows.to(y).T @ spectrum @ self.columns.to(y))


def cosines(n: int) -> Tensor:
    """The orthonormal cosine transform (DCT-II) of n numbers, float64 [n, n]; a row per frequency."""
    place = (torch.arange(n, dtype=torch.float64) + 0.5) * torch.pi / n
    rows = torch.cos(torch.arange(n, dtype=torch.float64)[:, None] * place) * (2 / n) ** 0.5
    rows[0] *= 0.5**0.5
    return rows
