"""Classifier-free guidance (2207.12598), in the convention of EDM2 and diffusers: w = 1 is no guidance.

D_w(x, σ, c) = D(x, σ, none) + w (D(x, σ, c) - D(x, σ, none))
"""

from math import inf

import torch
from torch import Tensor, nn

from consistency.errors import UserError, within
from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike, as_denoiser

STRONGEST = 1000.0  # weight that is accepted


class Guided(nn.Module):
    """A denoiser D_w made of a conditional one, whose network was also trained without a condition.

    Between `low` and `high` both are called in one batch of twice the size; elsewhere D alone (2404.07724).

    Args:
        D: the conditional denoiser, or a flow map with a trained diagonal.
        weight: w, for samples whose condition brings none of its own (`c.guidance`).
        low: the least σ that is guided.
        high: the greatest σ that is guided.

    Raises:
        UserError: D is a consistency function; a weight out of range; an interval that is none.
    """

    def __init__(self, D: DenoiserLike, weight: float, low: float = 0.0, high: float = inf) -> None:
        super().__init__()
        within("guidance", 0, STRONGEST, weight=weight)
        if not 0 <= low < high:
            raise UserError(f"guidance.low={low} must be at least 0 and less than guidance.high={high}")
        self.D, self.weight, self.low, self.high = as_denoiser(D, "guidance"), weight, low, high

    def forward(self, x: Tensor, sigma: Tensor | float, c: Condition = NONE) -> Tensor:
        """The guided estimate [B, ...] for x [B, ...] at σ [B], or one σ for all.

        Raises:
            UserError: c gives nothing to be guided by.
        """
        weight = self.weights(x, sigma, c)
        c = c._replace(guidance=None)
        if bool((weight == 1).all()):
            return self.D(x, sigma, c)  # type: ignore[arg-type]
        if c.label is None and c.image is None and c.tokens is None:
            raise UserError("guidance needs a condition, and none was given: set data.conditional=true")
        both = Condition(*(joined(a, b) for a, b in zip(c, c.none(), strict=True)))
        level = torch.cat([sigma, sigma]) if isinstance(sigma, Tensor) else sigma
        with_c, without = self.D(torch.cat([x, x]), level, both).chunk(2)  # type: ignore[arg-type]
        return torch.lerp(without, with_c, weight.reshape(-1, *[1] * (x.ndim - 1)))

    def weights(self, x: Tensor, sigma: Tensor | float, c: Condition) -> Tensor:
        """w of each sample [B], in the dtype of x; 1 outside of the interval."""
        w = torch.full((len(x),), self.weight) if c.guidance is None else c.guidance
        level = torch.as_tensor(sigma).to(x.device)
        inside = (self.low <= level) & (level <= self.high)
        return torch.where(inside, w.to(x), torch.ones((), dtype=x.dtype, device=x.device))


def joined(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """A field of both conditions, for twice as many samples; a mask that only b has masks nothing of a."""
    if b is None:
        return None
    return torch.cat([torch.ones_like(b) if a is None else a, b])


def from_lcm(w: float) -> float:
    """The weight of this convention for that of latent consistency models, where 0 is no guidance.

    2310.04378, equation 8: ε_c + w (ε_c - ε_none).
    """
    return 1 + w


def from_meanflow(omega: float, kappa: float = 0.0) -> float:
    """The effective weight of MeanFlow's guided velocity (2505.13447, appendix B.1).

    v = ω v_data + κ u(c) + (1 - ω - κ) u(none) guides as the weight ω/(1 - κ) does.

    Args:
        omega: ω, at least 0.
        kappa: κ, from 0 up to, and without, 1.
    """
    if not 0 <= kappa < 1:
        raise UserError(f"guidance: kappa={kappa} must be at least 0 and less than 1")
    return omega / (1 - kappa)
