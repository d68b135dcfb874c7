"""A sweep that is stopped or killed at any moment: its own command then leads to the undisturbed end."""

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from consistency.sweep.runs import RunState, runs_of
from tests.conftest import ROOT, SMALL
from tests.waits import ended, until

OPTIONS = [
    "method=ict",
    "data=moons",
    "budget=points",
    "threads=1",
    "trainer.max_steps=200",
    "trainer.val_check_interval=100",
]
OPTIONS += ["callbacks.checkpoints.every=20", "seed=1,2,3", "optimizer.lr=1e-3,1e-4"]
MOMENTS = 10


def arguments_of(directory):
    return ["train.py", "sweep=joblib", *SMALL, *OPTIONS, f"run_dir={directory}"]


def begin(directory):
    command = [sys.executable, *arguments_of(directory)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finished(process):
    out, _ = ended(process)
    return process.returncode, out


def processes(directory):
    """The numbers of all processes that work for a sweep, its own included."""
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdecimal():
            try:
                words = (each / "cmdline").read_bytes().decode().split("\0")
                zombie = (each / "stat").read_text().rpartition(") ")[2].startswith("Z")
            except OSError:
                continue
            if not zombie and any(word.startswith(f"run_dir={directory}") for word in words):
                found.append(int(each.name))
    return found


def all_end(directory):
    """Wait for every process: a run whose sweep was killed has to save before it ends."""
    until(lambda: not processes(directory), f"the processes of {directory} to end")


def end(directory):
    """The table without seconds, and the hashes of all weights, by overrides."""
    text = (directory / "table.md").read_text()
    rows = [line.rpartition(" | ")[0] for line in text.splitlines() if line.startswith("| ")]
    runs = runs_of(directory)
    assert {run.state for run in runs} == {RunState.FINISHED}
    return rows, {run.overrides: run.result["weights_sha256"] for run in runs}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight") / "X"
    since = time.monotonic()
    status, out = finished(begin(directory))
    assert status == 0, out
    return end(directory), time.monotonic() - since


def stop_parent(parent, directory):
    parent.send_signal(signal.SIGTERM)
    status, out = finished(parent)
    assert status in (0, 143), out
    if status == 143:
        (line,) = re.findall(r"^stopped by SIGTERM: (.*)$", out, re.M)
        if "go on with" in line:
            arguments = shlex.split(line.partition("; go on with ")[2])
            assert arguments == [
                "python",
                "train.py",
                "sweep=joblib",
                *SMALL,
                *OPTIONS,
                f"run_dir={directory}",
            ]


def kill_worker(parent, directory):
    workers = [number for number in processes(directory) if number != parent.pid]
    if workers:
        os.kill(workers[-1], signal.SIGKILL)
    status, out = finished(parent)
    assert status == (1 if "ended by SIGKILL" in out else 0), out


def kill_parent(parent, directory):
    parent.kill()
    finished(parent)


def kill_all(parent, directory):
    for number in processes(directory):
        os.kill(number, signal.SIGKILL)
    parent.communicate()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("disturb", [stop_parent, kill_worker, kill_parent, kill_all])
def test_ten_moments(straight, disturb, tmp_path):
    wanted, seconds = straight
    for moment in range(MOMENTS):
        directory = tmp_path / str(moment) / "X"
        parent = begin(directory)
        time.sleep(seconds * (moment + 0.5) / MOMENTS)
        disturb(parent, directory)
        if disturb in (stop_parent, kill_worker):  # the sweep has waited for its runs
            assert processes(directory) == [], moment
        all_end(directory)
        before = {path: path.stat().st_mtime_ns for path in directory.glob("*/result.json")}
        status, out = finished(begin(directory))
        assert status == 0, out
        assert end(directory) == wanted, moment
        assert processes(directory) == []
        assert {path: path.stat().st_mtime_ns for path in before} == before  # left alone
