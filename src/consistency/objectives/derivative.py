"""How fast does f change along a path? A forward-mode derivative, or the difference of two calls.

Each is (f, x, σ, c, dx, dσ) -> f(x, σ) and its rate of change where x and σ change at rates dx and dσ.
"""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.nets.layers import without_autocast
from consistency.tensor import same_dropout


class Derivative(Protocol):
    """(f, x [B, ...], σ [B], c, dx [B, ...], dσ [B]) -> f and df, each like x."""

    def __call__(
        self, f: DenoiserLike, x: Tensor, sigma: Tensor, c: Condition, dx: Tensor, dsigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x, σ) and ∂f/∂x dx + ∂f/∂σ dσ."""
        ...


@dataclass(frozen=True)
class ForwardMode:
    """One Jacobian-vector product. Exact; it can itself be differentiated.

    Args:
        float32: compute it in float32 where the step computes in half precision.
    """

    float32: bool = False

    def __call__(
        self, f: DenoiserLike, x: Tensor, sigma: Tensor, c: Condition, dx: Tensor, dsigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x, σ) and its rate of change."""
        with uncompiled_model(f), without_autocast(x) if self.float32 else nullcontext():
            y, dy, *_ = torch.func.jvp(lambda x, s: f(x, s, c), (x, sigma), (dx, dsigma))
        return y, dy


@dataclass(frozen=True)
class CentralDifferences:
    """(f(x + h dx, σ + h dσ) - f(x - h dx, σ - h dσ)) / 2h, and half their sum for f: errors O(h²).

    For networks without a forward mode: compiled, sharded, with fused attention. Half precision is refused,
    whose rounding is larger than the difference whatever h is.

    Args:
        h: in units of the rates. In float32 an error of about 1e-4 remains at 1e-2, and more on both sides.
        float32: compute in float32 where the step computes in half precision.
    """

    h: float = 1e-2
    float32: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.h < 1:
            raise UserError(f"derivative.h={self.h} must lie between 0 and 1: σ - h σ must stay positive")

    def __call__(
        self, f: DenoiserLike, x: Tensor, sigma: Tensor, c: Condition, dx: Tensor, dsigma: Tensor
    ) -> tuple[Tensor, Tensor]:
        """f(x, σ) and its rate of change, both calls under the same dropout masks."""
        with without_autocast(x) if self.float32 else nullcontext():
            check_full_precision(x, f)
            with same_dropout(x.device):
                ahead = f(x + self.h * dx, sigma + self.h * dsigma, c)
            behind = f(x - self.h * dx, sigma - self.h * dsigma, c)
        return (ahead + behind) / 2, (ahead - behind) / (2 * self.h)


def uncompiled_model(f: DenoiserLike) -> AbstractContextManager[object]:
    """Without what `torch.compile` made of f, which knows no forward mode, and would be given up for good."""
    parts = f.modules() if isinstance(f, torch.nn.Module) else ()
    compiled = any(part._compiled_call_impl is not None for part in parts)
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def check_full_precision(x: Tensor, f: DenoiserLike) -> None:
    """Refuse differences of numbers in half precision."""
    weights = f.parameters() if isinstance(f, torch.nn.Module) else ()
    halved = torch.is_autocast_enabled(x.device.type) or any(w.dtype.itemsize < 4 for w in (x, *weights))
    if halved:
        raise UserError(
            "derivative=central_differences in half precision is rounding error alone: set "
            "derivative.float32=true and trainer.precision=bf16-mixed or 32-true, or derivative=forward_mode"
        )
