"""Which noise levels make the best few steps? Found by trying, on a grid of candidates.

A list of S levels is a tuple of S indices into the grid, ascending, as σ falls; the first is 0, for σ_max.
The cost of a list may be anything, such as a Fréchet distance on fixed noise: it is computed once per list,
is not taken to have one valley, and the answer is the best list that was tried, never a guess.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

Levels = tuple[int, ...]
Cost = Callable[[Levels], float]


class Spent(Exception):  # noqa: N818 - the search ends, nothing is wrong
    """There may be no more trials."""


class CostMemo:
    """The cost of each list, computed once, for a limited number of lists.

    A search is a function of the costs alone: if they are kept elsewhere, one that was stopped ends with the
    same lists.

    Args:
        cost: what is to become small.
        budget: lists that may be tried, at least 1.
    """

    def __init__(self, cost: Cost, budget: int) -> None:
        self.cost, self.budget = cost, budget
        self.known: dict[Levels, float] = {}

    def __call__(self, levels: Levels) -> float:
        """Cost of a list.

        Raises:
            Spent: it is not known, and the budget is used up.
        """
        if levels not in self.known:
            if len(self.known) >= self.budget:
                raise Spent
            self.known[levels] = self.cost(levels)
        return self.known[levels]

    @property
    def best(self) -> Levels:
        """The list of lowest cost so far; of equal ones the first that was tried."""
        return min(self.known, key=self.known.__getitem__)


def search_levels(
    cost: Cost,
    size: int,
    counts: Iterable[int],
    budget: int,
    scan: int = 4,
    known: Mapping[int, Levels] = MappingProxyType({}),
) -> dict[int, Levels]:
    """The best lists of so many levels, each begun with the best shorter one (2303.01469, section 4.1).

    Args:
        cost: of a list.
        size: of the grid.
        counts: numbers of levels, each at least 1 and at most `size`.
        budget: trials for each number of levels.
        scan: candidates looked at before a valley is searched.
        known: lists that are tried first, by number of levels: the answer is no worse.

    Returns:
        The list for each number of levels.
    """
    found: dict[int, Levels] = {}
    best: Levels = (0,)
    for count in sorted(set(counts)):
        trials = CostMemo(cost, budget)
        with suppress(Spent):
            if count in known:
                trials(known[count])
            settle_levels(trials, widened(best, count, size), size, scan)
        best = found[count] = trials.best
    return found


def widened(levels: Levels, count: int, size: int) -> Levels:
    """The same with more levels, each in the middle of the widest gap; the last gap reaches to the end."""
    grown = list(levels)
    while len(grown) < count:
        gaps = [after - before for before, after in zip(grown, [*grown[1:], size], strict=True)]
        widest = gaps.index(max(gaps))
        grown.insert(widest + 1, grown[widest] + gaps[widest] // 2)
    return tuple(grown)


def settle_levels(trials: CostMemo, levels: Levels, size: int, scan: int) -> None:
    """Begin with the best, and move one level after the other, the lowest first, until none gains by it."""
    trials(levels)
    while True:
        before = trials.best
        for place in reversed(range(1, len(levels))):
            descend(trials, trials.best, place, size, scan)
        if trials.best == before:
            return


def descend(trials: CostMemo, levels: Levels, place: int, size: int, scan: int) -> None:
    """Try one level between its neighbours: a few candidates, then the middles of the best one's valley."""
    low = levels[place - 1] + 1
    high = (*levels, size)[place + 1] - 1

    def cost(index: int) -> float:
        return trials((*levels[:place], index, *levels[place + 1 :]))

    seen = {index: cost(index) for index in {levels[place], *spread_indices(low, high, scan)}}
    while True:
        best = min(seen, key=lambda index: (seen[index], index))
        left = max((index for index in seen if index < best), default=low - 1)
        right = min((index for index in seen if index > best), default=high + 1)
        fresh = [index for index in middles(left, best, right) if index not in seen]
        if not fresh:
            return
        seen |= {index: cost(index) for index in fresh}


def middles(left: int, best: int, right: int) -> list[int]:
    """Between an index and what was tried on either side of it; nothing where there is no room."""
    below, above = best - (best - left) // 2, best + (right - best) // 2
    return [index for index in (below, above) if left < index < right and index != best]


def spread_indices(low: int, high: int, count: int) -> list[int]:
    """So many indices inside [low, high], evenly spaced, the ends excepted where there is room."""
    return (
        sorted({low + (high - low) * (2 * i + 1) // (2 * count) for i in range(count)}) if low <= high else []
    )
