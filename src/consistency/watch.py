"""Progress of long work outside training: bars or lines, the time left, and stops between its pieces."""

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
LONG = 300.0  # seconds left above which a line says what would shorten the work
SECONDS = 10.0  # between two lines where there is no terminal; a piece should take no longer


@dataclass
class Work:
    """Work that is done in pieces.

    Args:
        name: of the work.
        total: number of pieces, such as samples or network calls.
        begun: start of the work, in seconds of `time.monotonic`.
        on_piece: called with this object after every piece.
        done: number of pieces so far.
    """

    name: str
    total: int
    begun: float
    on_piece: Callable[["Work"], None]
    done: int = 0

    def left(self, now: float) -> str:
        """The time left at `now` (in seconds of `time.monotonic`) as text, estimated from the pieces done."""
        if not self.done:
            return "unknown time"
        return clock((now - self.begun) / self.done * max(self.total - self.done, 0))


class _State:
    """The state of this module: the work in progress, its display, and the seconds of finished work."""

    def __init__(self) -> None:
        self.part: Work | None = None
        self.bar: Progress | None = None  # on the terminal
        self.task: TaskID | None = None
        self.shown: float | None = None  # time of the last line, of any work or of training
        self.spent: dict[str, float] = {}  # seconds by name of the work


_state = _State()


def do_nothing(now: Work) -> None:
    """Do nothing after a piece."""


@contextmanager
def in_pieces(name: str, total: int, on_piece: Callable[[Work], None] = do_nothing) -> Iterator[None]:
    """Work whose pieces `tick` counts: the time left is displayed, and a signal stops it between two pieces.

    All processes of a group must enter the same works in the same order. Within one they must not wait for
    each other: at its end, or as soon as one of them has received a signal, they agree whether to go on.
    Where no listener is registered (see `stops.listen`), a signal takes effect at once.

    Args:
        name: of the work.
        total: number of pieces on this process.
        on_piece: called after every piece.
    """
    former, now = (_state.part, _state.task), Work(strip_controls(name), total, time.monotonic(), on_piece)
    _state.part = now
    try:
        with progress_bar(now):
            line_due()  # the first work of a process starts the clock of lines
            stops.stop_between()
            yield
    finally:
        _state.part, _state.task = former
        _state.spent[name] = _state.spent.get(name, 0.0) + time.monotonic() - now.begun
    stops.stop_together()


def tick(pieces: int = 0) -> None:
    """Count pieces of the work in progress, update its display, and stop here if a signal has arrived.

    Call it with 0 within a piece that may take seconds. Outside `in_pieces` it does nothing.
    """
    now = _state.part
    if now is None:
        return
    now.done += pieces
    now.on_piece(now)
    if _state.bar is not None and _state.task is not None:
        _state.bar.update(_state.task, completed=now.done, left=now.left(time.monotonic()))
    elif line_due():
        write_line(f"{now.name}: {now.done}/{now.total}, {now.left(time.monotonic())} left")
    stops.stop_between()


def seconds_by_part() -> dict[str, float]:
    """Seconds that finished works have taken in this process, by name."""
    return dict(_state.spent)


def line_due(seconds: float = SECONDS) -> bool:
    """Whether at least so many seconds have passed since the last line, or since the first call of this."""
    if _state.shown is None:
        _state.shown = time.monotonic()
    return time.monotonic() - _state.shown >= seconds


def write_line(text: str) -> None:
    """Write a line of progress to stderr, on the first process of a group only."""
    _state.shown = time.monotonic()
    if is_first():
        print(text, file=sys.stderr, flush=True)


@contextmanager
def progress_bar(now: Work) -> Iterator[None]:
    """A bar on a terminal, below those that are open already; nothing elsewhere."""
    if not (sys.stderr.isatty() and is_first()):
        yield
        return
    with terminal() as bar:
        _state.task = bar.add_task(now.name, total=now.total, left=now.left(now.begun), news="")
        try:
            yield
        finally:
            bar.remove_task(_state.task)


@contextmanager
def terminal() -> Iterator[Progress]:
    """The display of all bars on the terminal; opened by the first of them, and shared by the others."""
    if _state.bar is not None:
        yield _state.bar
        return
    name, left, news = (
        TextColumn(text, markup=False)
        for text in ("{task.description}", "{task.fields[left]} left", "{task.fields[news]}")
    )
    columns = (name, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), left, news)
    with Progress(*columns, console=Console(stderr=True)) as bar:
        _state.bar = bar
        try:
            yield bar
        finally:
            _state.bar = None


@contextmanager
def progress(name: str, total: int, done: int, seconds: float = SECONDS) -> Iterator[Advance]:
    """A bar with the time left; without a terminal, a line every few seconds and one at the end.

    Args:
        name: of the work.
        total: number of pieces.
        done: number of pieces that were done before.
        seconds: time between two lines.

    Yields:
        A function that is called with the number of pieces that are done.
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
        yield line_writer(name, total, done, seconds)


def line_writer(name: str, total: int, done: int, seconds: float) -> Advance:
    """A function of the number of pieces done, which writes a line when one is due; see `progress`."""
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
    """Writes one line on what would shorten long work, as soon as more than `LONG` seconds of it are left.

    The first piece is not timed, because it may include preparations.

    Args:
        name: of the work.
        total: number of pieces.
        remedy: what the user can do to shorten it.
    """

    def __init__(self, name: str, total: int, remedy: str) -> None:
        self.name, self.total, self.remedy = name, total, remedy
        self.begun, self.written = time.monotonic(), False

    def __call__(self, done: int) -> None:
        """Estimate the time left after `done` pieces, at least 1."""
        if done == 1:
            self.begun = time.monotonic()
        elif not self.written:
            left = (time.monotonic() - self.begun) / (done - 1) * (self.total - done)
            if left > LONG:
                self.written = True
                notice(f"{self.name} may take {clock(left)}: {self.remedy}")


@contextmanager
def collect_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM in a list instead of stopping at once; a second signal stops at once."""
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
    """A duration as hours, minutes and seconds, such as 0:05:30."""
    minutes, s = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{s:02d}"
