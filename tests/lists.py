"""σ lists as samplers, for tests that begin with the former."""

from collections.abc import Mapping, Sequence

from consistency.sampling.samplers import MultiStep, Sampler


def multisteps(lists: Mapping[str, Sequence[float]], sigma_min: float = 0.002) -> dict[str, Sampler]:
    """Multistep sampling at these levels, by name."""
    return {name: MultiStep(sigmas, sigma_min) for name, sigmas in lists.items()}
