"""Long work outside training: how far it is, and a stop between two pieces."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeft

from consistency.errors import plain
from consistency.process.stops import STOPPING, mark, stop

Advance = Callable[[int], None]  # pieces that are done


@contextmanager
def progress(name: str, total: int, done: int, seconds: float = 15.0) -> Iterator[Advance]:
    """A bar with the time left; without a terminal a line now and then, and one at the end.

    Args:
        name: of the work.
        total: pieces.
        done: of them before.
        seconds: time between two lines.
    """
    name = plain(name)
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
        left = clock((since - begun) / (now - done) * (total - now))
        print(f"{name}: {now}/{total}, {left} left", file=sys.stderr, flush=True)

    return advance


@contextmanager
def noted() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM that have come; a second one takes effect at once."""
    signals: list[int] = []

    def note(signum: int, frame: object) -> None:
        signals.append(signum)
        mark()
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
