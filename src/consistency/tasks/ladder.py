"""What does another network call bring? Quality, latency and throughput against the number of calls."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from consistency.errors import UserError, at_least, check_seed, within
from consistency.files.atomic import write, write_text
from consistency.lit.consistency import ConsistencyModule
from consistency.lit.protocol import described
from consistency.metrics.processes import from_first, rank
from consistency.process.notices import notice
from consistency.result import device_name
from consistency.sampling.samplers import Recipe, euler, heun, karras_sigmas, multistep
from consistency.sampling.search import Levels, search
from consistency.schedule.draws import ImageDraws
from consistency.table import markdown
from consistency.tasks import schedules
from consistency.tasks.ladder_page import Rung, Speed, chart, is_speed, tables
from consistency.tasks.requests import MOST, bar, check_samples, classes_of, judged
from consistency.tasks.schedule_file import Listed, Lists, Origin
from consistency.tasks.session import Outcome, Session
from consistency.tasks.teacher import teacher_of
from consistency.tasks.timing import LONGEST, best_batch, seconds
from consistency.watch import Outlook


@dataclass(frozen=True)
class Search:
    """How the σ lists of several calls are looked for.

    Args:
        levels: candidates, Karras's from σ_max to σ_min.
        budget: lists tried for each number of calls.
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


@dataclass(frozen=True)
class Ladder:
    """Students by their number of calls, with the best σ lists for these weights; teachers beside them.

    Args:
        calls: numbers of network calls.
        count: samples judged.
        batch: samples a forward.
        seed: which samples.
        search: for σ lists; None for levels evenly spaced among Karras's.
        keep: add the lists to those beside the checkpoint, where task=sample finds them.
        teacher: put the teacher beside the student, where it is at hand.
        largest: batch, at which throughput is measured; none is tried that is larger.
        patience: seconds for each time that is measured; no larger batch is tried than takes longer.
    """

    calls: Sequence[int] = (1, 2, 3, 4, 8)
    count: int = 10_000
    batch: int = 500
    seed: int = 0
    search: Search | None = Search()
    keep: bool = True
    teacher: bool = True
    largest: int = 4096
    patience: float = 0.5

    def __post_init__(self) -> None:
        check_samples(self.count, self.batch, self.seed)
        at_least("task", largest=self.largest)
        within("task", 0, LONGEST, patience=self.patience)
        self._check()

    def __call__(self, session: Session) -> Outcome:
        """A table and a chart."""
        rungs = [*self._students(session), *self._teachers(session)]
        main = session.trained.judge.main
        table, picture = (session.directory / f"ladder.{kind}" for kind in ("md", "png"))
        shown = tables(main, rungs)
        if rank() == 0:
            write_text(table, markdown(shown))
            write(picture, partial(chart(main, rungs).savefig, dpi=150))
        return Outcome(
            metrics={f"{main}/{rung.name}": rung.number.values[main] for rung in rungs},
            paths={"table": str(table), "chart": str(picture)},
            images=self.count * len(rungs),
            numbers=[rung.number.plain(rung.name) | {"speed": rung.speed._asdict()} for rung in rungs],
            tables=shown,
            printed=1,  # the protocol is in the file
        )

    def _check(self) -> None:
        most = self.search.levels if self.search else 1000
        if not self.calls or not all(1 <= n <= most for n in self.calls):
            raise UserError(f"task.calls={list(self.calls)} must be from 1 to task.search.levels={most}")

    def _students(self, session: Session) -> Iterable[Rung]:
        """A rung for each number of calls, of a consistency function."""
        t = session.trained
        if not isinstance(t.module, ConsistencyModule):
            return
        if self.keep and self.search:
            from_first(lambda: schedules.check(t.path))
        lists = self._lists(session)
        if self.keep and self.search:
            self._keep(session, lists)
        for n, listed in lists.items():
            recipe = partial(multistep, sigmas=listed.sigmas, sigma_min=t.config.sigma.min)
            name = schedules.distinct(
                t.module.samplers, f"{n}step", recipe, "found" if self.search else "spaced"
            )
            yield self._rung(session, "student", name, recipe)

    def _teachers(self, session: Session) -> Iterable[Rung]:
        """Solvers of the probability flow with as many calls, and as many as their own run took."""
        t = session.trained
        student = isinstance(t.module, ConsistencyModule)
        teacher = (teacher_of(t) if self.teacher else None) if student else t
        if teacher is None:
            return
        known = {} if student else t.samplers
        for name, recipe in {**solvers(self.calls, t.config.sigma), **known}.items():
            series = f"teacher, {described(recipe, t.data.shape)['sampler']}"
            yield self._rung(session.about(teacher), series, f"teacher {name}" if student else name, recipe)

    def _keep(self, session: Session, lists: Lists) -> None:
        """Write the lists beside the checkpoint; what is there then is used in the rest of the session."""
        t = session.trained
        from_first(lambda: schedules.keep(t.path, t.weights_sha256, lists))
        if not t.follows:
            notice(f"the σ lists are kept in {schedules.path_of(t.path)}: found=true samples with them")
        else:
            best = from_first(lambda: schedules.found_for(t.path, t.weights_sha256, t.config.sigma.min))
            session.trained = schedules.taken_up(t, best, schedules.path_of(t.path), schedules.REMEDY)

    def _lists(self, session: Session) -> Lists:
        """σ by number of calls, and by what they were found."""
        t, how = session.trained, self.search or Search(budget=1)
        sigma = t.config.sigma
        grid = karras_sigmas(how.levels, sigma.min, sigma.max, sigma.rho)
        tried: dict[Levels, float] = {}
        total = how.budget * len(set(self.calls))
        tell = Outlook(
            "searching", total, "task.search.count, task.search.budget and task.calls make it less"
        )
        with bar("searching", total) as advance:

            def cost(levels: Levels) -> float:
                recipe = partial(multistep, sigmas=[grid[i] for i in levels], sigma_min=sigma.min)
                number = judged(session, t.judge, recipe, how.count, self.batch, how.seed, None)
                tried[levels] = number.values[t.judge.main]
                advance(len(tried))
                tell(len(tried))
                return tried[levels]

            asked = cost if self.search else lambda levels: 0.0  # the first list will do
            found = search(asked, how.levels, self.calls, how.budget, how.scan, own_lists(t.samplers, grid))
        by = partial(Origin, t.judge.main, count=how.count, seed=how.seed, budget=how.budget)
        return {
            n: Listed([grid[i] for i in levels], by(value=tried[levels]) if self.search else None)
            for n, levels in found.items()
        }

    def _rung(self, session: Session, series: str, name: str, recipe: Recipe) -> Rung:
        t = session.trained
        number = judged(session, t.judge, recipe, self.count, self.batch, self.seed, name)
        return Rung(series, name, described(recipe, t.data.shape), number, self._speed(session, recipe))

    def _speed(self, session: Session, recipe: Recipe) -> Speed:
        """Measured by the first process alone; known already on the same device."""
        t = session.trained
        how = {
            "timed": described(recipe, t.data.shape),
            "device": device_name(t.module.device),
            "precision": session.precision,
            "largest": self.largest,
            "patience": self.patience,
        }

        def timed() -> dict[str, Any]:
            return from_first(lambda: self._timed(session, recipe)._asdict())

        return Speed(**session.memo.once(session.card_of(how), timed, is_speed))

    def _timed(self, session: Session, recipe: Recipe) -> Speed:
        t, device = session.trained, session.trained.module.device

        def run(n: int) -> object:
            z = torch.randn(n, *t.data.shape, device=device)
            with session.fabric.autocast():
                return recipe(t.f, z, c=classes_of([0], range(n), t.data.classes, device), draws=Fresh())

        latency = seconds(lambda: run(1), device, 20, self.patience)
        batch = best_batch(run, device, self.largest, self.patience)
        return Speed(latency, batch / seconds(lambda: run(batch), device, 5, self.patience), batch)


def own_lists(samplers: Mapping[str, Recipe], grid: Sequence[float]) -> dict[int, Levels]:
    """The lists of the run's own samplers, each level the nearest of the grid's, by number of levels."""
    logs, found = torch.tensor(grid, dtype=torch.float64).log(), dict[int, Levels]()
    for recipe in samplers.values():
        sigmas = torch.tensor(described(recipe, (1,))["sigmas"], dtype=torch.float64)
        levels = (sigmas.log()[:, None] - logs).abs().argmin(1).unique().tolist()
        if len(levels) == len(sigmas) and levels[:1] == [0]:
            found[len(levels)] = tuple(levels)
    return found


class Fresh(ImageDraws):
    """Noise from the device's own generator, as where images need not come back the same."""

    def __init__(self) -> None:
        super().__init__(0, [])

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers shaped like x."""
        return torch.randn_like(x)


def solvers(calls: Iterable[int], sigma: Mapping[str, float]) -> dict[str, Recipe]:
    """Euler's method with so many calls, Heun's where their number is odd; with 18 and 35 calls besides."""
    grid = partial(karras_sigmas, sigma_min=sigma["min"], sigma_max=sigma["max"], rho=sigma["rho"])
    found: dict[str, Recipe] = {}
    for n in sorted({*calls, 18, 35} - {1}):
        if n <= 18:
            found[f"euler{n}"] = partial(euler, sigmas=grid(n))
        if n % 2:
            found[f"heun{n}"] = partial(heun, sigmas=grid((n + 1) // 2))
    return found
