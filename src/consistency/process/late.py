"""A line that acknowledges a signal which takes effect after more than two seconds."""

import signal
import sys
import threading
from queue import Empty, SimpleQueue

from consistency.process.rank import is_first

SECONDS = 2.0  # between a signal and its line; no line is printed if the work ends before


class Late:
    """Prints one line, on the first process of a group, if the work in progress does not end soon.

    Its thread is started before any signal: starting one takes locks that the interrupted code may hold,
    whereas `SimpleQueue.put` may be called in a signal handler.

    Args:
        seconds: between the signal and the line.
    """

    def __init__(self, seconds: float = SECONDS) -> None:
        self.seconds, self.queue = seconds, SimpleQueue[int | None]()  # a signal, then None at the end
        self.thread = threading.Thread(target=self._wait, name="late", daemon=True)
        self.thread.start()

    def note(self, signum: int) -> None:
        """Report a signal; may be called in a handler."""
        self.queue.put(signum)

    def end(self) -> None:
        """End the thread, because the work has ended."""
        self.queue.put(None)
        self.thread.join()

    def _wait(self) -> None:
        signum = self.queue.get()
        if signum is None:
            return
        try:
            self.queue.get(timeout=self.seconds)
        except Empty:
            if is_first():
                name = signal.Signals(signum).name
                line = f"{name}: stopping when the work at hand is done; a second signal stops at once"
                print(line, file=sys.stderr, flush=True)
