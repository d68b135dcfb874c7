"""σ lists for a ladder: searched on a grid of candidates, evenly spaced, or as a run has them."""

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
from consistency.tasks.measure.schedule_file import Listed, Lists, Origin
from consistency.tasks.session import Trained


@dataclass(frozen=True)
class Search:
    """How the σ lists of several calls are looked for.

    Args:
        levels: candidates, Karras's from σ_max to σ_min.
        budget: lists tried for each number of levels.
        scan: candidates looked at before a valley is searched.
        count: samples of a trial; a few are enough, for all trials see the same noise.
        seed: of that noise, other than the one that is judged in the end.
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

    def lists(
        self, family: Family, counts: Sequence[int], t: Trained, value: Callable[[Sampler], float] | None
    ) -> Lists:
        """Lists of so many levels for a family's samplers, by title.

        Args:
            family: of the run's samplers.
            counts: numbers of levels.
            t: whose σ and own samplers count.
            value: of a sampler, which is to become small; None to take the first list that comes.
        """
        sigma, tried = t.sigma, dict[Levels, float]()
        grid = karras_sigmas(self.levels, sigma.min, sigma.max, sigma.rho)

        def cost(levels: Levels) -> float:
            sampler = family.like.with_sigmas([grid[i] for i in levels])
            tried[levels] = 0.0 if value is None else value(sampler)
            return tried[levels]

        own = own_lists(samplers_of_family(family, t.samplers, sigma.min).values(), grid)
        lists: Lists = {}
        for levels in search_levels(cost, self.levels, counts, self.budget, self.scan, own).values():
            found = [grid[i] for i in levels]
            origin = Origin(t.judge.main, tried[levels], self.count, self.seed, self.budget)
            title = family.title(family.like.with_sigmas(found))
            lists[title] = Listed(found, None if value is None else origin)
        return lists


def level_counts(family: Family, calls: Iterable[int]) -> list[int]:
    """Numbers of levels with which a family makes so many calls; a solver that stops after one is none."""
    least = 2 if family.like.role is Denoiser else 1
    found = {family.like.levels_of(n) for n in calls if n >= least}
    return sorted(n for n in found if n is not None)


def spaced(family: Family, calls: Iterable[int], sigma: Sigma) -> dict[str, Sampler]:
    """A family's samplers with so many calls by title, at Karras's levels."""
    lists = [karras_sigmas(n, sigma.min, sigma.max, sigma.rho) for n in level_counts(family, calls)]
    made = [family.like.with_sigmas(sigmas) for sigmas in lists]
    return {family.title(sampler): sampler for sampler in made}


def samplers_of_family(
    family: Family, samplers: Mapping[str, Sampler], sigma_min: float
) -> dict[str, Sampler]:
    """The samplers of a run that are of a family, by name."""
    return {name: each for name, each in samplers.items() if multistep(each, sigma_min).family(family.like)}


def other_calls(
    family: Family, samplers: Mapping[str, Sampler], calls: Iterable[int], sigma_min: float
) -> dict[str, Sampler]:
    """Those of them that make other numbers of calls than these: of a solver, which is made for many."""
    known = set(calls)
    found = samplers_of_family(family, samplers, sigma_min) if family.like.role is Denoiser else {}
    return {name: each for name, each in found.items() if each.nfe not in known}


def own_lists(samplers: Iterable[Sampler], grid: Sequence[float]) -> dict[int, Levels]:
    """The lists of a run's own samplers, each level the nearest of the grid's, by number of levels."""
    logs, found = torch.tensor(grid, dtype=torch.float64).log(), dict[int, Levels]()
    for sampler in samplers:
        sigmas = torch.tensor(sampler.sigmas, dtype=torch.float64)
        levels = (sigmas.log()[:, None] - logs).abs().argmin(1).unique().tolist()
        if len(levels) == len(sigmas) and levels[:1] == [0]:
            found[len(levels)] = tuple(levels)
    return found


def series(family: Family, role: str = Consistency.role) -> str:
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
