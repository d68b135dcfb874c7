"""The socket between a sweep and its runs: a run reports over it, and stops when the sweep closes it.

A sweep starts each of its runs as a process and passes it one end of a pair of sockets. The run sends lines
of JSON. When the other end closes, because the sweep was stopped, stops the run early, or was killed, the run
behaves as after SIGTERM: it finishes its step, saves and ends. So no run is left behind, and a signal that
reaches both the sweep and its runs takes effect once.
"""

import _thread
import json
import os
import signal
import socket
import threading
import time
from contextlib import suppress
from typing import Any

from consistency.process.stops import has_come

VARIABLE = "CONSISTENCY_LIFELINE"  # environment variable with the file descriptor of the run's end

_held: list[socket.socket] = []


def open_lifeline() -> None:
    """Open the socket, if the process was given one; processes that this one starts do not inherit it."""
    number = os.environ.pop(VARIABLE, None)
    if number is None or not number.isdecimal():
        return
    try:
        line = socket.socket(fileno=int(number))
    except OSError:  # the variable is left over from another program
        return
    line.set_inheritable(False)
    _held.append(line)
    threading.Thread(target=watch, args=[line], daemon=True).start()


def is_sweep_run() -> bool:
    """Whether this process is a run of a sweep."""
    return bool(_held)


def watch(line: socket.socket) -> None:
    """Wait for the other end to close, then stop the process."""
    with suppress(OSError):
        while line.recv(4096):
            pass
    stop_process()


def follow_parent() -> None:
    """Stop this process when its parent has ended, where no socket connects them."""
    parent = os.getppid()

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        stop_process()

    threading.Thread(target=poll, daemon=True).start()


def stop_process() -> None:
    """Stop this process as SIGTERM would, unless a signal has arrived already."""
    while not has_come():
        _thread.interrupt_main(signal.SIGTERM)  # calls the handler, if one of `process.stops` is installed
        time.sleep(0.2)


def send_report(**facts: Any) -> None:
    """Send values to the sweep as one line of JSON; does nothing in a run of no sweep."""
    for line in _held:
        with suppress(OSError):  # the sweep has ended
            line.sendall(json.dumps(facts).encode() + b"\n")
