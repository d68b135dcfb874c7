"""task=ladder: quality, latency and throughput against the number of network calls."""

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
from consistency.tasks import schedules
from consistency.tasks.measure.ladder_lists import (
    Search,
    level_counts_for,
    samplers_of_other_calls,
    series_name,
    spaced_samplers,
)
from consistency.tasks.requests import check_samples, judge_samples, progress_bar
from consistency.tasks.schedule_file import SigmaList, SigmaLists
from consistency.tasks.session import Outcome, Session
from consistency.tasks.show.ladder_page import Rung, Speed, is_speed, ladder_chart, ladder_tables
from consistency.tasks.teacher import teacher_of
from consistency.tasks.timing import LONGEST, best_batch, median_seconds
from consistency.watch import Outlook


@dataclass(frozen=True)
class Ladder:
    """The families that a run samples with by their number of calls, with the best σ lists for these weights.

    The teacher of a student stands beside it. Jumps of a flow map are a family, and so is fresh noise.

    Args:
        calls: numbers of network calls.
        count: samples judged for each sampler.
        batch: samples per network call.
        seed: of the samples' noise.
        search: the search for σ lists; None uses Karras's levels.
        keep: add the lists to the file beside the checkpoint, where task=sample finds them.
        teacher: measure a student's teacher too, if it is available.
        largest: the largest batch size that is tried for throughput.
        patience: seconds for each time measurement; once a call takes longer, no larger batch is tried.
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
        most = self.search.levels if self.search else 1000
        if not self.calls or not all(1 <= n <= most for n in self.calls):
            raise UserError(f"task.calls={list(self.calls)} must be from 1 to task.search.levels={most}")

    def __call__(self, session: Session) -> Outcome:
        """Write `ladder.md` and `ladder.png`; a number for each rung."""
        rungs = [*self._model_rungs(session), *self._teacher_rungs(session)]
        main = session.trained.judge.main
        table, picture = (session.directory / f"ladder.{kind}" for kind in ("md", "png"))
        tables = ladder_tables(main, rungs)
        if rank() == 0:
            write_text(table, tables_markdown(tables))
            write_file(picture, partial(ladder_chart(main, rungs).savefig, dpi=150))
        return Outcome(
            metrics={f"{main}/{rung.name}": rung.number.values[main] for rung in rungs},
            paths={"table": str(table), "chart": str(picture)},
            images=self.count * len(rungs),
            numbers=[rung.number.to_plain(rung.name) | {"speed": rung.speed._asdict()} for rung in rungs],
            tables=tables,
            printed=1,  # the cards are in the file only
        )

    def _model_rungs(self, session: Session) -> Iterable[Rung]:
        """A rung per number of calls of each family of the run's samplers, and per other solver of it."""
        t = session.trained
        if self.keep and self.search:
            from_first(lambda: schedules.check_schedule_file(t.provenance.path))
        lists = self._find_lists(session)
        if self.keep and self.search:
            self._save_lists(session, lists)
        suffix = "found" if self.search else "spaced"
        for family in families_of(t.samplers, t.sigma.min):
            for title, found in lists.items():
                sampler = family.like.with_sigmas(found.sigmas)
                if family.title(sampler) == title:
                    name = schedules.distinct_name(t.own, title, sampler, suffix)
                    yield self._rung(session, series_name(family, t.role), name, sampler)
            for name, sampler in samplers_of_other_calls(family, t.samplers, self.calls, t.sigma.min).items():
                own = schedules.distinct_name(t.own, name, sampler)
                yield self._rung(session, series_name(family, t.role), own, sampler)

    def _teacher_rungs(self, session: Session) -> Iterable[Rung]:
        """The rungs of a student's teacher: its own samplers, and their families at the ladder's calls."""
        t = session.trained
        teacher = teacher_of(t) if self.teacher and t.role != Denoiser.role else None
        if teacher is None:
            return
        if not teacher.samplers:
            notice("the teacher is left out: its file does not say how it is sampled")
        sigma = t.sigma
        for family in families_of(teacher.samplers, sigma.min):
            even = spaced_samplers(family, self.calls, sigma)
            others = samplers_of_other_calls(family, teacher.samplers, self.calls, sigma.min)
            for name, sampler in {**even, **others}.items():
                rung_name = f"teacher {name}"
                yield self._rung(session.with_trained(teacher), series_name(family), rung_name, sampler)

    def _save_lists(self, session: Session, lists: SigmaLists) -> None:
        """Add the lists to the file beside the checkpoint, which the session then uses if `use_found`."""
        t = session.trained
        path, digest = t.provenance.path, t.provenance.weights_sha256
        from_first(lambda: schedules.keep_lists(path, digest, lists))
        if not t.use_found:
            notice(f"the σ lists are kept in {schedules.schedule_path(path)}: found=true samples with them")
        else:
            best = from_first(lambda: schedules.read_found_samplers(path, digest, t.own, t.sigma.min))
            session.trained = schedules.use_found_lists(t, best)

    def _find_lists(self, session: Session) -> SigmaLists:
        """The σ lists of all families by the title of their sampler, searched or Karras's."""
        t, search = session.trained, self.search or Search(budget=1)
        families = [
            (family, level_counts_for(family, self.calls)) for family in families_of(t.samplers, t.sigma.min)
        ]
        total, done = search.budget * sum(len(counts) for _, counts in families), itertools.count(1)
        tell = Outlook(
            "searching", total, "task.search.count, task.search.budget and task.calls make it less"
        )
        with progress_bar("searching" if total else None, total) as advance:

            def value(sampler: Sampler) -> float:
                number = judge_samples(session, t.judge, sampler, search.count, self.batch, search.seed, None)
                now = next(done)
                advance(now)
                tell(now)
                return number.values[t.judge.main]

            lists: SigmaLists = {}
            for family, counts in families:
                if self.search or family.like.role is not Denoiser:
                    lists |= search.find_lists(family, counts, t, value if self.search else None)
                else:
                    even = spaced_samplers(family, self.calls, t.sigma)
                    lists |= {title: SigmaList(list(sampler.sigmas)) for title, sampler in even.items()}
        return lists

    def _rung(self, session: Session, series: str, name: str, sampler: Sampler) -> Rung:
        t = session.trained
        number = judge_samples(session, t.judge, sampler, self.count, self.batch, self.seed, name)
        return Rung(series, name, describe_sampler(sampler), number, self._speed(session, sampler))

    def _speed(self, session: Session, sampler: Sampler) -> Speed:
        """Latency and throughput, recalled for the same device, else measured by the first process alone."""
        t = session.trained
        settings = {
            "timed": describe_sampler(sampler),
            "device": device_name(t.device),
            "precision": session.precision,
            "largest": self.largest,
            "patience": self.patience,
        }

        def measure() -> dict[str, Any]:
            return from_first(lambda: self._measure_speed(session, sampler)._asdict())

        return Speed(**session.memo.once(session.make_card(settings), measure, is_speed))

    def _measure_speed(self, session: Session, sampler: Sampler) -> Speed:
        """Latency of one sample, and throughput at the batch size with the most samples per second."""
        t, device = session.trained, session.trained.device

        def run(n: int) -> object:
            z = torch.randn(n, *t.shape, device=device)
            with session.fabric.autocast():
                return sampler(t.f, z, t.condition(range(n), [0]), DeviceDraws())

        latency = median_seconds(lambda: run(1), device, 20, self.patience)
        batch = best_batch(run, device, self.largest, self.patience)
        return Speed(latency, batch / median_seconds(lambda: run(batch), device, 5, self.patience), batch)


class DeviceDraws(ImageDraws):
    """Draws from the device's global generator, not reproducible: no cost of a generator per sample."""

    def __init__(self) -> None:
        super().__init__(0, [])

    def normal(self, x: torch.Tensor) -> torch.Tensor:
        """Standard normal numbers shaped like x."""
        return torch.randn_like(x)
