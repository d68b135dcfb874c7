"""Waits that end on an event; where it does not come, the test fails with what it was waiting for."""

import subprocess
import time

import pytest

LIMIT = 1200.0  # seconds: what a machine ten times slower needs; only what hangs gets there


def until(happened, what, process=None, seconds=LIMIT):
    """Wait for an event, and return what `happened` returned.

    Args:
        happened: () -> something true, once it has happened.
        what: names the event in the failure.
        process: that is to bring it about: the wait ends where it has ended before.
        seconds: the limit.
    """
    end = time.monotonic() + seconds
    while not (found := happened()):
        if process is not None and process.poll() is not None and not happened():
            out, err = process.communicate()
            pytest.fail(f"the process ended with {process.returncode} before {what}: {out or ''}{err or ''}")
        if time.monotonic() > end:
            pytest.fail(f"waited {seconds:.0f} s for {what}")
        time.sleep(0.01)
    return found


def ended(process, seconds=LIMIT):
    """Wait for a process to end: what it wrote to both streams."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        pytest.fail(f"waited {seconds:.0f} s for {process.args} to end; it wrote: {out or ''}{err or ''}")


def joined(process, what, seconds=LIMIT):
    """Wait for a forked process to end: its exit status."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f"waited {seconds:.0f} s for {what} to end")
    return process.exitcode
