"""What does another network call bring? Quality, latency and throughput against the number of calls."""

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from consistency.errors import UserError, at_least, within
from consistency.files.atomic import write_file, write_text
from consistency.metrics.processes import from_first, rank
from consistency.metrics.protocol import describe_sampler
from consistency.model.maps import Denoiser
from consistency.process.notices import notice
from consistency.result import device_name
from consistency.sampling.families import families_of
from consistency.sampling.samplers import Sampler
from consistency.schedule.draws import ImageDraws
from consistency.table import tables_markdown
from consistency.tasks.measure import schedules
from consistency.tasks.measure.ladder_lists import Search, level_counts, other_calls, series, spaced
from consistency.tasks.measure.schedule_file import Listed, Lists
from consistency.tasks.measure.teacher import teacher_of
from consistency.tasks.measure.timing import LONGEST, best_batch, median_seconds
from consistency.tasks.requests import bar, check_samples, judge_samples
from consistency.tasks.session import Outcome, Session
from consistency.tasks.show.ladder_page import Rung, Speed, is_speed, ladder_chart, ladder_tables
from consistency.watch import Outlook


@dataclass(frozen=True)
class Ladder:
    """The families that a run samples with by their number of calls, with the best σ lists for these weights.

    The teacher of a student stands beside it. Jumps of a flow map are a family, and so is fresh noise.

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
    search: Search | None = Search()  # noqa: RUF009 - frozen
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
        rungs = [*self._own(session), *self._teachers(session)]
        main = session.trained.judge.main
        table, picture = (session.directory / f"ladder.{kind}" for kind in ("md", "png"))
        shown = ladder_tables(main, rungs)
        if rank() == 0:
            write_text(table, tables_markdown(shown))
            write_file(picture, partial(ladder_chart(main, rungs).savefig, dpi=150))
        return Outcome(
            metrics={f"{main}/{rung.name}": rung.number.values[main] for rung in rungs},
            paths={"table": str(table), "chart": str(picture)},
            images=self.count * len(rungs),
            numbers=[rung.number.to_plain(rung.name) | {"speed": rung.speed._asdict()} for rung in rungs],
            tables=shown,
            printed=1,  # the protocol is in the file
        )

    def _check(self) -> None:
        most = self.search.levels if self.search else 1000
        if not self.calls or not all(1 <= n <= most for n in self.calls):
            raise UserError(f"task.calls={list(self.calls)} must be from 1 to task.search.levels={most}")

    def _own(self, session: Session) -> Iterable[Rung]:
        """A rung for each number of calls of each family of the run's samplers; and its own solvers."""
        t = session.trained
        if self.keep and self.search:
            from_first(lambda: schedules.check_schedule_file(t.provenance.path))
        lists = self._lists(session)
        if self.keep and self.search:
            self._keep(session, lists)
        way = "found" if self.search else "spaced"
        for family in families_of(t.samplers, t.sigma.min):
            for title, listed in lists.items():
                sampler = family.like.with_sigmas(listed.sigmas)
                if family.title(sampler) == title:
                    name = schedules.distinct(t.own, title, sampler, way)
                    yield self._rung(session, series(family, t.role), name, sampler)
            for name, sampler in other_calls(family, t.samplers, self.calls, t.sigma.min).items():
                own = schedules.distinct(t.own, name, sampler)
                yield self._rung(session, series(family, t.role), own, sampler)

    def _teachers(self, session: Session) -> Iterable[Rung]:
        """Of a student's teacher: its own samplers, and those of their families with as many calls."""
        t = session.trained
        teacher = teacher_of(t) if self.teacher and t.role != Denoiser.role else None
        if teacher is None:
            return
        if not teacher.samplers:
            notice("the teacher is left out: its file does not say how it is sampled")
        sigma = t.sigma
        for family in families_of(teacher.samplers, sigma.min):
            made = spaced(family, self.calls, sigma) | other_calls(
                family, teacher.samplers, self.calls, sigma.min
            )
            for name, sampler in made.items():
                yield self._rung(session.about(teacher), series(family), f"teacher {name}", sampler)

    def _keep(self, session: Session, lists: Lists) -> None:
        """Write the lists beside the checkpoint; what is there then is used in the rest of the session."""
        t = session.trained
        path, digest = t.provenance.path, t.provenance.weights_sha256
        from_first(lambda: schedules.keep_lists(path, digest, lists))
        if not t.follows:
            notice(f"the σ lists are kept in {schedules.path_of(path)}: found=true samples with them")
        else:
            best = from_first(lambda: schedules.found_for(path, digest, t.own, t.sigma.min))
            session.trained = schedules.with_found(t, best)

    def _lists(self, session: Session) -> Lists:
        """σ lists of all families by title, and by what they were found."""
        t, how = session.trained, self.search or Search(budget=1)
        asked = [
            (family, level_counts(family, self.calls)) for family in families_of(t.samplers, t.sigma.min)
        ]
        total, done = how.budget * sum(len(counts) for _, counts in asked), itertools.count(1)
        tell = Outlook(
            "searching", total, "task.search.count, task.search.budget and task.calls make it less"
        )
        with bar("searching" if total else None, total) as advance:

            def value(sampler: Sampler) -> float:
                number = judge_samples(session, t.judge, sampler, how.count, self.batch, how.seed, None)
                now = next(done)
                advance(now)
                tell(now)
                return number.values[t.judge.main]

            lists: Lists = {}
            for family, counts in asked:
                if self.search or family.like.role is not Denoiser:
                    lists |= how.lists(family, counts, t, value if self.search else None)
                else:
                    even = spaced(family, self.calls, t.sigma)
                    lists |= {title: Listed(list(sampler.sigmas)) for title, sampler in even.items()}
        return lists

    def _rung(self, session: Session, series: str, name: str, sampler: Sampler) -> Rung:
        t = session.trained
        number = judge_samples(session, t.judge, sampler, self.count, self.batch, self.seed, name)
        return Rung(series, name, describe_sampler(sampler), number, self._speed(session, sampler))

    def _speed(self, session: Session, sampler: Sampler) -> Speed:
        """Measured by the first process alone; known already on the same device."""
        t = session.trained
        how = {
            "timed": describe_sampler(sampler),
            "device": device_name(t.device),
            "precision": session.precision,
            "largest": self.largest,
            "patience": self.patience,
        }

        def timed() -> dict[str, Any]:
            return from_first(lambda: self._timed(session, sampler)._asdict())

        return Speed(**session.memo.once(session.card_of(how), timed, is_speed))

    def _timed(self, session: Session, sampler: Sampler) -> Speed:
        t, device = session.trained, session.trained.device

        def run(n: int) -> object:
            z = torch.randn(n, *t.shape, device=device)
            with session.fabric.autocast():
                return sampler(t.f, z, t.condition(range(n), [0]), Fresh())

        latency = median_seconds(lambda: run(1), device, 20, self.patience)
        batch = best_batch(run, device, self.largest, self.patience)
        return Speed(latency, batch / median_seconds(lambda: run(batch), device, 5, self.patience), batch)


class Fresh(ImageDraws):
    """Noise from the device's own generator, as where images need not come back the same."""

    def __init__(self) -> None:
        super().__init__(0, [])

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers shaped like x."""
        return torch.randn_like(x)
