"""Operators whose spectrum is known in closed form: blur, masked Fourier transform, bicubic resizing."""

from abc import abstractmethod

import torch
from torch import Tensor
from torch.fft import fft2, ifft2
from torch.nn.functional import interpolate

from consistency.errors import at_least, check_seed, positive, within
from consistency.sampling.operators import Operator, Shape, check_factor

CUT = 1e-12  # of the largest eigenvalue of A'A; below it, nothing is left to invert in float64


class Circular(Operator):
    """An operator for which A'A is a circular convolution.

    Args:
        spectrum: eigenvalues of A'A, float64 [H, W], by frequency as fft2 orders them.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, spectrum: Tensor, noise: float = 0.0) -> None:
        super().__init__(noise)
        self.spectrum = spectrum
        self.inverse = inverted(spectrum)

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A'y."""

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """(A'A)⁺A'y."""
        return filtered(self.adjoint(y), self.inverse)

    def proximal(self, x: Tensor, y: Tensor, gamma: float) -> Tensor:
        """(I + γA'A)⁻¹(x + γA'y)."""
        return filtered(x + gamma * self.adjoint(y), 1 / (1 + gamma * self.spectrum))


def inverted(values: Tensor) -> Tensor:
    """1/v, and 0 for eigenvalues that are 0 but for rounding."""
    there = values > CUT * values.max()
    return torch.where(there, 1 / values.where(there, 1.0), 0.0)


def filtered(x: Tensor, response: Tensor) -> Tensor:
    """Real images [B, C, H, W], each frequency times its response [H, W]; computed in float64."""
    return ifft2(fft2(x.double()) * response.to(x.device)).real.to(x.dtype)


class Blur(Circular):
    """A Gaussian blur that wraps around the edges: y like x.

    Args:
        shape: (C, H, W) of an image.
        width: standard deviation in pixels.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, width: float, noise: float = 0.0) -> None:
        positive("operator", width=width)
        *_, H, W = shape
        self.response = fft2(torch.outer(bell(H, width), bell(W, width))).real  # the kernel is symmetric
        super().__init__(self.response**2, noise)

    def forward(self, x: Tensor) -> Tensor:
        """The blurred images."""
        return filtered(x, self.response)

    def adjoint(self, y: Tensor) -> Tensor:
        """The same again."""
        return filtered(y, self.response)


def bell(n: int, width: float) -> Tensor:
    """A Gaussian on a circle of n pixels around pixel 0, of sum 1; float64 [n]."""
    place = torch.arange(n, dtype=torch.float64)
    weight = torch.exp(-0.5 * (torch.minimum(place, n - place) / width) ** 2)
    return weight / weight.sum()


class MaskedFFT(Circular):
    """Some columns of the Fourier transform, as in accelerated MRI: y [B, C, H, n, 2], complex numbers.

    Args:
        shape: (C, H, W) of an image.
        acceleration: columns there are for each that is measured.
        centre: share of all columns that are measured in any case, those of the lowest frequencies.
        seed: which others.
        noise: standard deviation of what was added to each part of A x.
    """

    def __init__(
        self, shape: Shape, acceleration: float, centre: float = 0.08, seed: int = 0, noise: float = 0.0
    ) -> None:
        at_least("operator", acceleration=acceleration)
        within("operator", 0, 1, centre=centre)
        check_seed("operator.seed", seed)
        *_, self.H, self.W = shape
        self.columns = measured_columns(self.W, acceleration, centre, seed)
        measured = torch.zeros(self.W, dtype=torch.float64).index_fill_(0, self.columns, 1.0)
        # Real images have the same spectrum at k and -k: A'A takes from both.
        mirrored = measured[-torch.arange(self.W) % self.W]
        super().__init__(((measured + mirrored) / 2).expand(self.H, self.W).clone(), noise)

    def forward(self, x: Tensor) -> Tensor:
        """The measured columns."""
        spectrum = fft2(x, norm="ortho")[..., self.columns.to(x.device)]
        return torch.view_as_real(spectrum)

    def adjoint(self, y: Tensor) -> Tensor:
        """Back from the measured columns, the others being 0."""
        some = torch.view_as_complex(y.contiguous())
        spectrum = some.new_zeros(*some.shape[:-1], self.W)
        spectrum[..., self.columns.to(y.device)] = some
        return ifft2(spectrum, norm="ortho").real


def measured_columns(n: int, acceleration: float, centre: float, seed: int) -> Tensor:
    """Which of n frequencies are measured, long and ascending: the lowest ones, and others at random."""
    by_frequency = torch.fft.fftfreq(n).abs().argsort(stable=True)
    few = max(1, round(n / acceleration))
    sure = min(few, max(1, round(centre * n)))
    others = by_frequency[sure:]
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed))
    return torch.cat([by_frequency[:sure], others[order[: few - sure]]]).sort().values


class BicubicSuperResolution(Operator):
    """Bicubic resizing with antialiasing, as torch and Pillow do it: y [B, C, H/p, W/p].

    It acts on rows and columns apart, x -> R_H x R_W', so that two small decompositions R = U S V' say all.

    Args:
        shape: (C, H, W) of an image.
        factor: p, which divides H and W.
        noise: standard deviation of what was added to A x.
    """

    def __init__(self, shape: Shape, factor: int, noise: float = 0.0) -> None:
        super().__init__(noise)
        check_factor(shape, factor)
        *_, H, W = shape
        self.rows, self.columns = shrinking(H, factor), shrinking(W, factor)
        self.row_inverse, self.column_inverse = torch.linalg.pinv(self.rows), torch.linalg.pinv(self.columns)
        (self.row_basis, s), (self.column_basis, t) = (squares(R) for R in (self.rows, self.columns))
        self.spectrum = torch.outer(s, t)

    def forward(self, x: Tensor) -> Tensor:
        """The small images."""
        return self.rows.to(x) @ x @ self.columns.to(x).T

    def adjoint(self, y: Tensor) -> Tensor:
        """R_H'y R_W."""
        return self.rows.to(y).T @ y @ self.columns.to(y)

    def pseudo_inverse(self, y: Tensor) -> Tensor:
        """R_H⁺ y R_W⁺'."""
        return self.row_inverse.to(y) @ y @ self.column_inverse.to(y).T

    def proximal(self, x: Tensor, y: Tensor, gamma: float) -> Tensor:
        """(I + γA'A)⁻¹(x + γA'y), in the basis where A'A is diagonal."""
        V, W = self.row_basis.to(x), self.column_basis.to(x)
        turned = V.T @ (x + gamma * self.adjoint(y)) @ W
        return V @ (turned / (1 + gamma * self.spectrum.to(x))) @ W.T


def shrinking(n: int, factor: int) -> Tensor:
    """The matrix that resizes n pixels to n/factor, float64 [n/factor, n]."""
    impulses = torch.eye(n, dtype=torch.float64)[None, None]
    return interpolate(impulses, size=(n // factor, n), mode="bicubic", antialias=True)[0, 0]


def squares(R: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvectors of R'R [n, n], and its eigenvalues [n], those that rounding made negative set to 0."""
    values, vectors = torch.linalg.eigh(R.T @ R)
    return vectors, values.clamp_min(0.0)
