"""Long work outside training: how far it is, and a stop between two pieces."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from consistency.errors import strip_controls
from consistency.process import stops
from consistency.process.notices import notice
from consistency.process.rank import is_first
from consistency.process.stops import STOPPING, mark_signal, stop

Advance = Callable[[int], None]  # pieces that are done
LONG = 300.0  # seconds ahead that are worth a line on what makes them less
SECONDS = 10.0  # between two lines where there is no terminal: with the longest piece, less than 20


@dataclass
class Work:
    """Long work in pieces.

    Args:
        name: of the work.
        total: number of pieces, in whatever unit.
        begun: when, by the clock of `time.monotonic`.
        seen: looks at it after every piece.
        done: pieces so far.
    """

    name: str
    total: int
    begun: float
    seen: Callable[["Work"], None]
    done: int = 0

    def left(self, now: float) -> str:
        """The time left, by the pieces that are done."""
        if not self.done:
            return "unknown time"
        return clock((now - self.begun) / self.done * max(self.total - self.done, 0))


class _Open:
    """The part that is at work, where it is shown, and what parts have taken so far."""

    def __init__(self) -> None:
        self.part: Work | None = None
        self.bar: Progress | None = None  # on the terminal
        self.task: TaskID | None = None
        self.shown: float | None = None  # when the last line was written, of any part or of training
        self.spent: dict[str, float] = {}  # seconds, by name


_open = _Open()


def unseen(now: Work) -> None:
    """Nobody looks."""


@contextmanager
def in_pieces(name: str, total: int, seen: Callable[[Work], None] = unseen) -> Iterator[None]:
    """Work whose pieces `tick` counts: shown with the time left, and stopped between two of them by a signal.

    Every process of a group must come to the same parts in the same order. Within one they must not wait for
    each other: at its end, or as soon as one of them has heard of a signal, they agree whether to go on.
    Where nobody listens (see `stops.listen`), a signal takes effect at once as elsewhere.

    Args:
        name: of the work.
        total: pieces of this process.
        seen: looks at it after every piece.
    """
    former, now = (_open.part, _open.task), Work(strip_controls(name), total, time.monotonic(), seen)
    _open.part = now
    try:
        with progress_bar(now):
            due()  # the first part of a process starts the clock
            stops.stop_between()
            yield
    finally:
        _open.part, _open.task = former
        _open.spent[name] = _open.spent.get(name, 0.0) + time.monotonic() - now.begun
    stops.stop_together()


def tick(pieces: int = 0) -> None:
    """So many pieces more of the part that is at work are done: show it, and stop here if a signal has come.

    Call it with 0 within a piece that may take seconds. Outside any part it does nothing.
    """
    now = _open.part
    if now is None:
        return
    now.done += pieces
    now.seen(now)
    if _open.bar is not None and _open.task is not None:
        _open.bar.update(_open.task, completed=now.done, left=now.left(time.monotonic()))
    elif due():
        write_line(f"{now.name}: {now.done}/{now.total}, {now.left(time.monotonic())} left")
    stops.stop_between()


def seconds_by_part() -> dict[str, float]:
    """Seconds that parts have taken in this process, by name."""
    return dict(_open.spent)


def due(seconds: float = SECONDS) -> bool:
    """Whether the last line, or the first question, was so long ago."""
    if _open.shown is None:
        _open.shown = time.monotonic()
    return time.monotonic() - _open.shown >= seconds


def write_line(text: str) -> None:
    """Write a line on how far the work is, on the first process of a group."""
    _open.shown = time.monotonic()
    if is_first():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(now: Work) -> Iterator[None]:
    """On a terminal a bar, below one that is open already."""
    if not (sys.stderr.isatty() and is_first()):
        yield
        return
    with terminal() as bar:
        _open.task = bar.add_task(now.name, total=now.total, left=now.left(now.begun), news="")
        try:
            yield
        finally:
            bar.remove_task(_open.task)


@contextmanager
def terminal() -> Iterator[Progress]:
    """The display on the terminal, which all bars share."""
    if _open.bar is not None:
        yield _open.bar
        return
    name, left, news = (
        TextColumn(text, markup=False)
        for text in ("{task.description}", "{task.fields[left]} left", "{task.fields[news]}")
    )
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, news)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        _open.bar = bar
        try:
            yield bar
        finally:
            _open.bar = None


@contextmanager
def progress(name: str, total: int, done: int, seconds: float = SECONDS) -> Iterator[Advance]:
    """A bar with the time left; without a terminal a line now and then, and one at the end.

    Args:
        name: of the work.
        total: pieces.
        done: of them before.
        seconds: time between two lines.
    """
    name = strip_controls(name)
    if sys.stderr.isatty():
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, TimeElapsedColumn(), TextColumn("left"), TimeLeft(), console=Console(stderr=True)
        ) as bar:
            task = bar.add_task(name, total=total, completed=done)
            yield lambda now: bar.update(task, completed=now)
    else:
        yield lines(name, total, done, seconds)


def lines(name: str, total: int, done: int, seconds: float) -> Advance:
    """What writes the lines."""
    begun = shown = time.monotonic()

    def advance(now: int) -> None:
        nonlocal shown
        since = time.monotonic()
        if now < total and since - shown < seconds:
            return
        shown = since
        left = clock((since - begun) / max(now - done, 1) * (total - now))
        print(f"{name}: {now}/{total}, {left} left", file=sys.stderr, flush=True)

    return advance


class Outlook:
    """Says once what makes long work less, as soon as minutes of it are ahead.

    The time of the first piece is left out, for it may hold preparations.

    Args:
        name: of the work.
        total: pieces.
        remedy: what makes it less.
    """

    def __init__(self, name: str, total: int, remedy: str) -> None:
        self.name, self.total, self.remedy = name, total, remedy
        self.begun, self.said = time.monotonic(), False

    def __call__(self, done: int) -> None:
        """So many pieces are done, at least 1."""
        if done == 1:
            self.begun = time.monotonic()
        elif not self.said:
            left = (time.monotonic() - self.begun) / (done - 1) * (self.total - done)
            if left > LONG:
                self.said = True
                notice(f"{self.name} may take {clock(left)}: {self.remedy}")


@contextmanager
def noted() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM that have come; a second one takes effect at once."""
    signals: list[int] = []

    def note(signum: int, frame: object) -> None:
        signals.append(signum)
        mark_signal()
        signal.signal(signum, stop)

    former = {signum: signal.signal(signum, note) for signum in STOPPING}
    try:
        yield signals
    finally:
        for signum, handler in former.items():
            signal.signal(signum, handler)


def clock(seconds: float) -> str:
    """Hours, minutes and seconds."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
