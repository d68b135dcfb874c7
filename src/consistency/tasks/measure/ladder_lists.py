"""σ lists for a ladder: searched on a grid of candidates, spaced as Karras's, or those of the run."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from consistency.errors import check_seed, within
from consistency.library.model import MOST
from consistency.model.maps import Consistency, Denoiser, FlowMap
from consistency.sampling.families import Family, multistep
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.samplers import MultiStep, Sampler
from consistency.sampling.search import Levels, search_levels
from consistency.schedule.sigma import Sigma
from consistency.tasks.schedule_file import Origin, SigmaList, SigmaLists
from consistency.tasks.session import Trained


@dataclass(frozen=True)
class Search:
    """The search for σ lists with several numbers of levels.

    Args:
        levels: number of candidate levels: Karras's from σ_max to σ_min.
        budget: lists tried for each number of levels.
        scan: candidates evaluated before the search narrows around the best of them.
        count: samples per trial; a few suffice, because all trials use the same noise.
        seed: of this noise; use another seed than that of the samples that are judged at the end.
    """

    levels: int = 40
    budget: int = 30
    scan: int = 4
    count: int = 2000
    seed: int = 1

    def __post_init__(self) -> None:
        within("task.search", 1, 1000, levels=self.levels, scan=self.scan)
        within("task.search", 1, 100_000, budget=self.budget)
        within("task.search", 2, MOST, count=self.count)
        check_seed("task.search.seed", self.seed)

    def find_lists(
        self, family: Family, counts: Sequence[int], t: Trained, value: Callable[[Sampler], float] | None
    ) -> SigmaLists:
        """The best lists with these numbers of levels, by the title of the sampler that has them.

        Args:
            family: of the run's samplers.
            counts: numbers of levels.
            t: the model; its σ range is searched, and the lists of its samplers are tried too.
            value: of a sampler, to be minimised; None to take the first list of the search.
        """
        sigma, tried = t.sigma, dict[Levels, float]()
        grid = karras_sigmas(self.levels, sigma.min, sigma.max, sigma.rho)

        def cost(levels: Levels) -> float:
            sampler = family.like.with_sigmas([grid[i] for i in levels])
            tried[levels] = 0.0 if value is None else value(sampler)
            return tried[levels]

        own = run_levels(samplers_of_family(family, t.samplers, sigma.min).values(), grid)
        lists: SigmaLists = {}
        for levels in search_levels(cost, self.levels, counts, self.budget, self.scan, own).values():
            found = [grid[i] for i in levels]
            origin = Origin(t.judge.main, tried[levels], self.count, self.seed, self.budget)
            title = family.title(family.like.with_sigmas(found))
            lists[title] = SigmaList(found, None if value is None else origin)
        return lists


def level_counts_for(family: Family, calls: Iterable[int]) -> list[int]:
    """The numbers of levels with which a family makes these numbers of calls, without repeats.

    Solvers of a denoiser are left out for one call, after which they would return the denoiser's mean.
    """
    least = 2 if family.like.role is Denoiser else 1
    found = {family.like.levels_of(n) for n in calls if n >= least}
    return sorted(n for n in found if n is not None)


def spaced_samplers(family: Family, calls: Iterable[int], sigma: Sigma) -> dict[str, Sampler]:
    """A family's samplers with these numbers of calls, at Karras's levels, by title."""
    lists = [karras_sigmas(n, sigma.min, sigma.max, sigma.rho) for n in level_counts_for(family, calls)]
    samplers = [family.like.with_sigmas(sigmas) for sigmas in lists]
    return {family.title(sampler): sampler for sampler in samplers}


def samplers_of_family(
    family: Family, samplers: Mapping[str, Sampler], sigma_min: float
) -> dict[str, Sampler]:
    """The samplers of a run that belong to a family, by name."""
    return {name: each for name, each in samplers.items() if multistep(each, sigma_min).family(family.like)}


def samplers_of_other_calls(
    family: Family, samplers: Mapping[str, Sampler], calls: Iterable[int], sigma_min: float
) -> dict[str, Sampler]:
    """A run's solvers of this family with other numbers of calls than `calls`; none for students.

    The ladder adds them, because a solver is usually run with more calls than the ladder has.
    """
    known = set(calls)
    found = samplers_of_family(family, samplers, sigma_min) if family.like.role is Denoiser else {}
    return {name: each for name, each in found.items() if each.nfe not in known}


def run_levels(samplers: Iterable[Sampler], grid: Sequence[float]) -> dict[int, Levels]:
    """The lists of a run's samplers as indices of the nearest grid levels, by number of levels.

    A list is left out if two of its levels share a grid level, or if it does not begin at the highest one.
    """
    logs, found = torch.tensor(grid, dtype=torch.float64).log(), dict[int, Levels]()
    for sampler in samplers:
        sigmas = torch.tensor(sampler.sigmas, dtype=torch.float64)
        levels = (sigmas.log()[:, None] - logs).abs().argmin(1).unique().tolist()
        if len(levels) == len(sigmas) and levels[:1] == [0]:
            found[len(levels)] = tuple(levels)
    return found


def series_name(family: Family, role: str = Consistency.role) -> str:
    """What a line of the chart is called.

    Args:
        family: whose samplers it connects.
        role: of the map that they sample from.
    """
    like, suffix = family.like, family.suffix
    kind = "fresh noise" if isinstance(like, MultiStep) else like.name
    if role == FlowMap.role:
        return f"diagonal, {kind}{suffix}" if like.role is Denoiser else f"{kind}{suffix}"
    who = "teacher" if like.role is Denoiser else "student"
    return f"{who}{suffix}" if isinstance(like, MultiStep) else f"{who}, {kind}{suffix}"
