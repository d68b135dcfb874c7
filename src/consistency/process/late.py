"""A line on a signal that takes effect late."""

import signal
import sys
import threading
from queue import Empty, SimpleQueue

from consistency.process.rank import is_first

SECONDS = 2.0  # a step that ends by then needs no line


class Late:
    """Acknowledges a signal if the work that it waits for goes on, once, on the first process of a group.

    The thread that waits is there before the signal: to start one takes locks that the interrupted code may
    hold, whereas `SimpleQueue.put` may be called in a handler.

    Args:
        seconds: between the signal and the line.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds, self.news = seconds, SimpleQueue[int | None]()
        self.thread = threading.Thread(target=self._wait, name="late", daemon=True)
        self.thread.start()

    def note(self, signum: int) -> None:
        """A signal has come; to be called in a handler."""
        self.news.put(signum)

    def end(self) -> None:
        """The work has ended: no line follows."""
        self.news.put(None)
        self.thread.join()

    def _wait(self) -> None:
        signum = self.news.get()
        if signum is None:
            return
        try:
            self.news.get(timeout=self.seconds)
        except Empty:
            if is_first():
                name = signal.Signals(signum).name
                line = f"{name}: stopping when the work at hand is done; a second signal stops at once"
                print(line, file=sys.stderr, flush=True)
