"""Maps as samplers call them: of the role that they need, preconditioned, at one noise level."""

from typing import Any

from torch import Tensor

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.model.maps import Consistency, Denoiser, DenoiserLike, FlowMap, Map
from consistency.sampling.levels import level


def denoise_at(f: DenoiserLike, x: Tensor, sigma: float, c: Condition) -> Tensor:
    """f(x, σ, c) at one σ for all samples."""
    return f(x, sigma, c) if isinstance(f, Denoiser | Consistency) else f(x, level(sigma, x), c)


def suited_map(f: Any, role: type[Map], what: str) -> Any:
    """f, if it is of a role or a function; the slice of a flow map that is of that role.

    Args:
        f: anything that is called as a map.
        role: that is needed.
        what: needs it, for the message.

    Raises:
        UserError: a map of another role.
    """
    if not isinstance(f, Map) or isinstance(f, role):
        return f
    if isinstance(f, FlowMap):
        return f.at_zero if role is Consistency else f.diagonal
    group = {Denoiser: "teacher", Consistency: "consistency", FlowMap: "flow_map"}
    raise UserError(
        f"{what} samples from a {role.role}, and this model is a {f.role}: use samplers={group[type(f)]}"
    )
