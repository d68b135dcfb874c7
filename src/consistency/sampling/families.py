"""Families of samplers: those of a run that differ in more than their levels."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from consistency.sampling.samplers import MultiStep, OneStep, Sampler


class Family(NamedTuple):
    """Samplers that differ in their levels alone.

    Args:
        like: one of them.
        suffix: behind the titles of its samplers. Empty, but of a second family of a kind, such as Heun's
            method with churn beside Heun's method.
    """

    like: Sampler
    suffix: str = ""

    def title(self, sampler: Sampler) -> str:
        """Name of one of them, such as `2step`, `heun35` or `heun35 (churned)`."""
        return f"{sampler.title}{self.suffix}"


def families_of(samplers: Mapping[str, Sampler], sigma_min: float) -> list[Family]:
    """The families of a run's samplers, in their order.

    One step is taken for multistep sampling with one level. A second family of a kind has the name of its
    first sampler added.

    Args:
        samplers: of the run, by name.
        sigma_min: ε of multistep sampling, where the run has one step alone.
    """
    found: list[Family] = []
    several = any(isinstance(each, MultiStep) for each in samplers.values())
    for name, sampler in samplers.items():
        if sampler == OneStep(sampler.sigmas[:1]) and several:
            continue
        like = multistep(sampler, sigma_min)
        if not any(like.family(known.like) for known in found):
            first = all(known.like.name != like.name for known in found)
            found.append(Family(like, "" if first else f" ({name})"))
    return found


def multistep(sampler: Sampler, sigma_min: float) -> Sampler:
    """One step as multistep sampling with one level; any other sampler as it is."""
    if not isinstance(sampler, OneStep):
        return sampler
    return MultiStep(sampler.sigmas, sigma_min, clip=sampler.clip, precond=sampler.precond)


def samplers_of_lists(
    lists: Mapping[str, Sequence[float]], own: Mapping[str, Sampler], sigma_min: float
) -> dict[str, Sampler]:
    """Samplers of σ lists: the run's own of a name at these levels, or else of the family of that title.

    Names that are neither are left out.

    Args:
        lists: by name, such as `2step` or `heun35`.
        own: samplers of the run, by name.
        sigma_min: see `families_of`.
    """
    known, found = families_of(own, sigma_min), dict[str, Sampler]()
    for name, sigmas in lists.items():
        like = (
            [own[name]] if name in own else [each.like for each in known if is_title_of(each, name, sigmas)]
        )
        for each in like[:1]:
            found[name] = multistep(each, sigma_min).with_sigmas(sigmas)
    return found


def is_title_of(family: Family, name: str, sigmas: Sequence[float]) -> bool:
    """Whether a name is the title of a family's sampler at these levels."""
    return family.title(family.like.with_sigmas(sigmas)) == name
