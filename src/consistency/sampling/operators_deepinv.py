"""Operators of the deepinv library, of which A and A' alone are used: `pip install -e '.[inverse]'`."""

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import Tensor

from consistency.errors import UserError, nearest
from consistency.sampling.operators import Shape
from consistency.sampling.operators_iterative import Iterative

TOLERANCE = 1e-6  # the library's operators keep float32, and would lose imaginary parts if they were cast


class Deepinv(Iterative):
    """Any linear operator of deepinv.physics; y is what it makes.

    Args:
        shape: (C, H, W) of an image, its argument img_size.
        physics: name of its class, such as Downsampling.
        options: for its constructor.
        noise: standard deviation of what was added to A x.
        steps: of conjugate gradients, at most; those of the library stop too early to fit y exactly.
    """

    def __init__(
        self, shape: Shape, physics: str, options: Mapping[str, Any], noise: float = 0.0, steps: int = 500
    ) -> None:
        super().__init__(noise, steps, TOLERANCE)
        found = deepinv_physics()
        linear = {name for name, kind in vars(found).items() if is_linear(kind, found)}
        if physics not in linear:
            raise UserError(f"operator.physics={physics} is not one of deepinv's: {nearest(physics, linear)}")
        try:
            self.physics = getattr(found, physics)(img_size=tuple(shape), **options)
        except (TypeError, ValueError) as error:
            raise UserError(f"operator.options do not suit deepinv's {physics}: {error}") from error

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return self.physics.to(x.device).A(x.float()).to(x.dtype)

    def adjoint(self, y: Tensor) -> Tensor:
        """A'y."""
        return self.physics.to(y.device).A_adjoint(y.float()).to(y.dtype)


def deepinv_physics() -> ModuleType:
    """deepinv.physics, imported at the first use: it takes seconds."""
    try:
        return import_module("deepinv.physics")
    except ImportError as error:
        raise UserError(
            "operator=deepinv needs the deepinv library: pip install -e '.[inverse]', or choose "
            "another of configs/operator/"
        ) from error


def is_linear(kind: Any, physics: ModuleType) -> bool:
    """Whether this is a class of linear operators."""
    return isinstance(kind, type) and issubclass(kind, physics.LinearPhysics)
