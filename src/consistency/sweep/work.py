"""A sweep in its directory: finding its runs, and running those that have not ended."""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from consistency.errors import UserError, strip_controls
from consistency.files.atomic import dispensable
from consistency.files.directory import alone_in, lock_holder
from consistency.files.owned import check_inside
from consistency.process.stops import account
from consistency.sweep.child import Ended
from consistency.sweep.command import command_to_go_on
from consistency.sweep.identity import Settings, found_among, override_settings, varied
from consistency.sweep.outlook import best, named_steps, optimised_value, outlook, own_overrides
from consistency.sweep.pool import Pool
from consistency.sweep.runs import (
    RESULT,
    Run,
    RunState,
    is_at_work,
    is_sweep,
    order,
    plan_run,
    run_in,
    runs_of,
)
from consistency.sweep.single import check_no_run
from consistency.watch import clock

Name = Callable[[Sequence[str], int], str]


class Tabled(Protocol):
    """A table of a sweep, written to its directory."""

    def write(self, directory: Path) -> None:
        """Write it from the files of the runs in the directory."""

    def show(self, directory: Path) -> None:
        """Write it, and print it."""


@dataclass
class Sweep:
    """A sweep in its directory.

    Args:
        directory: of the sweep.
        pool: of processes.
        name: (overrides, number) -> directory of a new run, in that of the sweep.
        metric: that the sweep optimises, if any; shown when a run ends.
        table: made anew whenever a run has ended.
        steps: of each run, where the file of the sweep names them.
    """

    directory: Path
    pool: Pool
    name: Name
    metric: str | None = None
    table: Tabled | None = None
    known: dict[Path, Settings] = field(default_factory=dict)  # the runs that there are, and what they set
    took: list[float] = field(default_factory=list)  # seconds of the runs that have ended
    began: dict[Path, float] = field(default_factory=dict)
    steps: int | None = None

    @staticmethod
    @contextmanager
    def of(
        context: HydraContext, config: DictConfig, size: int, go_on: Sequence[str], table: Tabled | None
    ) -> Iterator["Sweep"]:
        """A sweep as Hydra configures it; at the end of the block none of its runs is at work.

        Raises:
            UserError: another sweep works in its directory, or that is the directory of a run.
        """
        directory = Path(config.hydra.sweep.dir)
        check_no_run(directory)
        name, metric = partial(subdirectory_of, context, config), config.get("optimized_metric")
        with alone_in(directory), account(partial(sweep_so_far, directory)):
            there = runs_of(directory) if is_sweep(directory) else []
            known = {run.directory: override_settings(run.overrides) for run in there}
            made = Sweep(directory, Pool(size, go_on), name, metric, table, known)
            made.steps = named_steps(config)
            try:
                with closing(made.pool):
                    yield made
            finally:
                with dispensable(), suppress(UserError):  # whatever ends the block is what to tell
                    made.write()

    def find(self, overrides: Sequence[str], swept: set[str]) -> Run:
        """The run that has these overrides: an existing one, or a new one, whose directory is made.

        Args:
            overrides: of the run.
            swept: keys that the sweep varies.
        """
        given = [each for each in overrides if each not in self.pool.go_on]
        wanted, there = override_settings(given), list(self.known)
        place = found_among(list(self.known.values()), wanted, swept)
        directory = (
            self.directory / directory_name(self.name(given, self.next())) if place is None else there[place]
        )
        check_inside(self.directory, [directory.name])
        if place is None and directory in there:
            raise UserError(f"hydra.sweep.subdir gives two runs the name {directory.name}: choose another")
        self.known[directory] = wanted
        return plan_run(directory, given)

    def next(self) -> int:
        """The number of a new run."""
        return 1 + max((order(directory)[1] for directory in self.known), default=-1)

    def all(
        self, commands: Sequence[Sequence[str]], repeat: bool = False, swept: Iterable[str] = ()
    ) -> list[Run]:
        """Run all runs that have not ended, and return all in order.

        Args:
            commands: the overrides of each.
            repeat: also make those that have ended before.
            swept: keys that the sweep varies, beside those in which these commands differ.
        """
        keys = varied(commands) | {*swept}
        runs = [self.find(overrides, keys) for overrides in commands]
        once = {run.directory: run for run in runs}.values()  # a value may have been given twice
        waiting = [run for run in once if repeat or not run.is_settled]
        self.announce(runs)
        self.write()
        total = left = len(waiting)
        ended = dict[Path, Run]()
        while waiting or self.pool.children:
            while waiting and not self.pool.is_full:
                place = f"{total - len(waiting) + 1} of {total}"
                self.start(waiting.pop(0), runs, place + self.rest(left))
            event = self.pool.wait()
            if isinstance(event, Ended):
                left -= 1
                ended[event.run.directory] = event.run
                self.take(event.run, left)
        return [ended.get(run.directory, run) for run in runs]

    def announce(self, runs: Sequence[Run]) -> None:
        """Print the number of runs that are left."""
        before = count_states([run for run in runs if run.is_settled])
        side = f", {self.pool.size} at a time" if self.pool.size > 1 else ""
        done = f"; {before} before" if before else ""
        print(f"sweep        {len(runs)} runs in {self.directory}{side}{done}", flush=True)
        if line := outlook(runs, self.steps, self.pool.size):
            print(f"{'':<12} {line}", flush=True)

    def rest(self, left: int) -> str:
        """The estimated time of so many runs, from those that have ended; empty before the first has."""
        if not self.took or not left:
            return ""
        return f", about {clock(fmean(self.took) * left / self.pool.size)} left"

    def start(self, run: Run, among: Sequence[Run], place: str = "") -> None:
        """Begin a run, and say so; one whose sweep was killed is given the time to save and end."""
        awaited(run)
        if run.is_settled:  # made again: what it has left is not to be taken for what comes now
            (run.directory / RESULT).unlink(missing_ok=True)
        self.began[run.directory] = time.monotonic()
        print(f"run {run.name:<8} {own_overrides(run, among)}{f' ({place})' if place else ''}", flush=True)
        self.pool.start(run)

    def take(self, run: Run, left: int) -> None:
        """Say what has become of a run, and how long the others will take."""
        self.took.append(time.monotonic() - self.began.pop(run.directory))
        rest = f"; {left} to go{self.rest(left)}" if left else ""
        print(
            f"run {run.name:<8} {outcome_of_run(run, self.metric)} ({self.took[-1]:.0f} s){rest}", flush=True
        )
        self.write()

    def write(self) -> None:
        """Make the table anew."""
        if self.table is not None:
            self.table.write(self.directory)


def awaited(run: Run) -> Run:
    """The run once no process works in its directory: its sweep may have been killed a moment ago."""
    if not is_at_work(run.directory):
        return run
    by = strip_controls(lock_holder(run.directory))
    print(f"run {run.name:<8} is at work still: waiting for {by} to end", flush=True)
    while is_at_work(run.directory):
        time.sleep(0.2)
    return run_in(run.directory)


def subdirectory_of(context: HydraContext, config: DictConfig, overrides: Sequence[str], number: int) -> str:
    """The directory of a run, by hydra.sweep.subdir: its number, unless that says more."""
    written = OmegaConf.to_container(config.hydra.sweep, resolve=False)
    if isinstance(written, dict) and written["subdir"] == "${hydra:job.num}":
        return str(number)
    composed = context.config_loader.load_sweep_config(config, list(overrides))
    with open_dict(composed):
        composed.hydra.job.id = composed.hydra.job.num = number
    former = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(composed)
    try:
        return str(composed.hydra.sweep.subdir)
    finally:
        HydraConfig.instance().cfg = former


def directory_name(name: str) -> str:
    """The name of a directory in that of the sweep.

    Raises:
        UserError: it leads elsewhere.
    """
    if name in ("", ".", "..") or Path(name).name != name:
        raise UserError(f"hydra.sweep.subdir={name} must name one folder, without a slash: choose another")
    return name


def outcome_of_run(run: Run, metric: str | None) -> str:
    """State of a run, with the reason, or with its number."""
    if run.reason:
        return strip_controls(f"{run.state}: {run.reason}")
    value = optimised_value(run, metric)
    return run.state if value is None else f"{run.state}, {metric} {value:.4g}"


def count_states(runs: Sequence[Run]) -> str:
    """How many are in which state, in words."""
    numbers = Counter(run.state for run in runs)
    return ", ".join(f"{numbers[state]} {state}" for state in RunState if state in numbers)


def sweep_so_far(directory: Path) -> str:
    """Of a sweep that has not ended."""
    made = count_states(runs_of(directory)) if is_sweep(directory) else "no run has begun"
    return f"{made}; go on with {command_to_go_on(directory)}"


def conclude_sweep(
    directory: str | Path, table: Tabled, only: Collection[Path] = (), metric: str | None = None
) -> None:
    """Show the table, and the best run.

    Args:
        directory: of the sweep.
        table: shows it.
        only: the runs that were to be made now; all where none is named.
        metric: that the sweep optimises, if any; lower is better.

    Raises:
        UserError: some of them have no result, or a spoiled one.
    """
    place = Path(directory)
    table.show(place)
    if line := best(runs_of(place), metric):
        print(line, flush=True)
    runs = [run for run in runs_of(place) if not only or run.directory in only]
    lost = [run for run in runs if run.state is not RunState.FINISHED]
    if lost:
        hopeless = all(run.is_settled for run in lost)
        remedy = "the table says why" if hopeless else f"try again with {command_to_go_on(place)}"
        raise UserError(f"{count_states(lost)} of {len(runs)} runs: {remedy}")
