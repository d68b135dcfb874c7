"""The line between a sweep and its runs: a run reports over it, and ends when the sweep lets go of it.

A sweep starts each of its runs as a process of its own and hands it one end of a pair of sockets. The run
sends lines of JSON. When the other end closes, because the sweep was told to stop, gives the run up, or was
killed, the run behaves as if SIGTERM had come: it finishes its step, saves and ends. So no run is left
behind, and a signal that reaches the sweep and its runs alike counts once.
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

VARIABLE = "CONSISTENCY_LIFELINE"  # number of the run's end, a file descriptor

_held: list[socket.socket] = []


def hold() -> None:
    """Take up the line, if the process was given one; the processes that it starts get none."""
    number = os.environ.pop(VARIABLE, None)
    if number is None or not number.isdecimal():
        return
    try:
        line = socket.socket(fileno=int(number))
    except OSError:  # of a variable that another program has left
        return
    line.set_inheritable(False)
    _held.append(line)
    threading.Thread(target=watch, args=[line], daemon=True).start()


def held() -> bool:
    """Whether this process is a run of a sweep."""
    return bool(_held)


def watch(line: socket.socket) -> None:
    """Wait for the other end to close, and stop the process unless a signal has already."""
    with suppress(OSError):
        while line.recv(4096):
            pass
    stop_process()


def follow_parent() -> None:
    """Stop this process when the one that has started it is gone, where no line connects them."""
    parent = os.getppid()

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        stop_process()

    threading.Thread(target=poll, daemon=True).start()


def stop_process() -> None:
    """As if SIGTERM had come, unless a signal has."""
    while not has_come():
        _thread.interrupt_main(signal.SIGTERM)  # calls the handler, once there is one of ours
        time.sleep(0.2)


def send_report(**facts: Any) -> None:
    """Send facts to the sweep, as one line of JSON; nothing where there is none."""
    for line in _held:
        with suppress(OSError):  # it has gone
            line.sendall(json.dumps(facts).encode() + b"\n")
