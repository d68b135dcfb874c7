"""What a preconditioner is: four functions of σ that make an estimate of clean data of a network.

D(x, σ) = c_skip(σ) x + c_out(σ) F(c_in(σ) x, c_noise(σ))      (2206.00364, eq. 7)

Those that there are stand in `consistency.model.precond`.
"""

from typing import NamedTuple, Protocol

from torch import Tensor


class Coefficients(NamedTuple):
    """The four functions of σ, each [B] in float64."""

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor


class Precond(Protocol):
    """σ [B] -> Coefficients."""

    @property
    def lowest(self) -> float:
        """The least σ at which the network means something."""
        ...

    def __call__(self, sigma: Tensor) -> Coefficients:
        """Coefficients at σ [B]."""
        ...
