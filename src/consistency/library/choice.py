"""Which sampler `steps=` means: one of the model's own, or any number of jumps of a flow map."""

from collections.abc import Mapping

from consistency.errors import UserError, within
from consistency.model.maps import FlowMap
from consistency.sampling.levels import MOST_CALLS, karras_sigmas
from consistency.sampling.samplers import Jumps, Sampler
from consistency.schedule.sigma import Sigma


def sampler_of_calls(steps: int | None, known: Mapping[str, Sampler], role: str, sigma: Sigma) -> Sampler:
    """The sampler with so many network calls; None for the first that is known.

    Of a flow map, jumps along the trajectory (γ = 0) go before samplers with fresh noise. Where it has none
    with so many calls, they are jumps at Karras's levels.

    Args:
        steps: network calls, or None.
        known: samplers of the model, by name.
        role: of its map.
        sigma: its noise levels.

    Raises:
        UserError: there is none, and it names those that there are.
    """
    suited = [each for each in known.values() if steps in (None, each.nfe)]
    along = [each for each in suited if isinstance(each, Jumps) and not each.gamma]
    if steps is not None and role == FlowMap.role:
        return along[0] if along else even_jumps(steps, sigma)
    if suited:
        return suited[0]
    has = ", ".join(f"{each.nfe} ({name})" for name, each in known.items()) or "no sampler"
    raise UserError(
        f"steps={steps}: this model has samplers of other numbers of network calls, {has}: choose one of "
        "these, or give a sampler"
    )


def even_jumps(calls: int, sigma: Sigma) -> Jumps:
    """So many jumps at Karras's levels without the last, σ_min, where little is left to do.

    Raises:
        UserError: calls is not from 1 to `MOST_CALLS`.
    """
    within("sample()", 1, MOST_CALLS - 1, steps=calls)
    return Jumps(karras_sigmas(calls + 1, sigma.min, sigma.max, sigma.rho)[:-1])
