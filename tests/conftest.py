"""Runs of the entry points, as a user starts them, and small pieces that several tests share."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.forked import execute
from tests.waits import ended

ROOT = Path(__file__).parents[1]
SEVERAL = {f"{group}={name}" for group in ("trainer", "fabric") for name in ("ddp", "ddp_sim")}
CD_MOONS = [
    "method=cd",
    "data=moons",
    "budget=points",
    "weight=inverse_gap",
    "teacher_run.experiment=edm_moons",
]
SMALL = ["trainer=cpu", "net.width=32", "net.blocks=1", "data.batch_size=32", "data.samples=64"]


@dataclass
class Run:
    """A finished run of train.py or eval.py."""

    directory: Path
    status: int
    out: str
    err: str

    @property
    def result(self):
        return json.loads((self.directory / "result.json").read_text())

    @property
    def raw(self):
        return self.result["weights_sha256"]["raw"]


def start(script, directory, *overrides, **env):
    """A process that runs an entry point in its own run directory."""
    command = [sys.executable, str(ROOT / script), *overrides, f"run_dir={directory}"]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default", **env}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **quiet},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def run(script, directory, *overrides, **env):
    """Run an entry point to its end."""
    if env or SEVERAL & {*overrides}:  # it begins otherwise, or starts others
        process = start(script, directory, *overrides, **env)
        out, err = ended(process)
        return Run(Path(directory), process.returncode, out, err)
    with TemporaryDirectory() as streams:
        words = [*overrides, f"run_dir={directory}"]
        return Run(Path(directory), *execute(ROOT / script, words, ROOT, streams))


@pytest.fixture(autouse=True)
def begins_silent(monkeypatch):
    """Lines of progress wait for ten seconds of this test, as they do in a process of its own."""
    monkeypatch.setattr("consistency.watch._state.shown", None)


@pytest.fixture
def train(tmp_path):
    """train(name, *overrides): a small run in tmp_path/name."""
    return lambda name, *overrides, **env: run("train.py", tmp_path / name, *SMALL, *overrides, **env)


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(name, *overrides)."""
    return lambda name, *overrides: run("eval.py", tmp_path / name, *overrides)


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """A checkpoint of digits that nobody trained."""
    from tests.sessions import checkpoint

    return checkpoint(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def with_classes(tmp_path_factory):
    """The same, conditional."""
    from tests.sessions import checkpoint

    return checkpoint(tmp_path_factory.mktemp("classes"), "data.conditional=true")
