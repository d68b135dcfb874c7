"""However a run is stopped, it goes on as if it had not been: equal to the bit."""

import signal
import time

import pytest

from tests.conftest import SMALL, run, start
from tests.waits import ended, until

STEPS = 300
OPTIONS = [*SMALL, f"trainer.max_steps={STEPS}", "trainer.val_check_interval=100", "net.dropout=0.2"]
OPTIONS += ["callbacks.checkpoints.every=20", "trainer.log_every_n_steps=10"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    return run("train.py", tmp_path_factory.mktemp("straight"), *OPTIONS)


def begun(directory, seconds, *words):
    """A run that is at work: its first checkpoint is written, and `seconds` have passed since."""
    process = start("train.py", directory, *OPTIONS, *words)
    until((directory / "checkpoints" / "last.ckpt").exists, "the first checkpoint", process)
    time.sleep(seconds)
    return process


def resumed(directory, *words):
    return run("train.py", directory, *OPTIONS, *words, "ckpt_path=last")


def same(a, b):
    return (
        a["weights_sha256"] == b["weights_sha256"]
        and a["metrics"] == b["metrics"]
        and a["steps"] == b["steps"]
    )


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_the_run_goes_on_exactly(straight, tmp_path, signum):
    process = begun(tmp_path, 0.3)
    process.send_signal(signum)
    _, err = ended(process)
    assert process.returncode == 128 + signum
    assert f"stopped by {signum.name} at step" in err
    assert "ckpt_path=last" in err
    again = resumed(tmp_path)
    assert "resuming from" in again.out
    assert same(again.result, straight.result)


def test_a_kill_loses_at_most_what_followed_the_last_checkpoint(straight, tmp_path):
    process = begun(tmp_path, 0.5)
    process.kill()
    process.communicate()
    assert same(resumed(tmp_path).result, straight.result)


def test_a_directory_that_holds_a_run_is_not_begun_afresh(straight):
    before = straight.result
    again = run("train.py", straight.directory, *OPTIONS)
    assert again.status == 1
    assert again.err.startswith(f"error: run_dir={straight.directory} holds a run already")
    assert again.result == before


def test_last_without_a_checkpoint_says_so_and_starts(tmp_path):
    fresh = run("train.py", tmp_path, *SMALL, "trainer.max_steps=10", "ckpt_path=last")
    assert fresh.status == 0
    assert "no checkpoint" in fresh.out
    assert "starting afresh" in fresh.out


def test_accumulation_resumes_at_the_step_too(tmp_path):
    options = [
        *SMALL,
        "trainer.accumulate_grad_batches=2",
        "trainer.max_steps=40",
        "callbacks.checkpoints.every=15",
    ]
    options += ["curriculum.K=40", "trainer.val_check_interval=40"]
    whole = run("train.py", tmp_path / "whole", *options)
    assert whole.result["steps"] == 40
    part = start("train.py", tmp_path / "part", *options)
    until((tmp_path / "part" / "checkpoints" / "last.ckpt").exists, "the first checkpoint", part)
    part.kill()
    part.communicate()
    again = run("train.py", tmp_path / "part", *options, "ckpt_path=last")
    assert again.result["weights_sha256"] == whole.result["weights_sha256"]


def test_a_signal_before_training_leaves_no_traceback(tmp_path):
    process = start("train.py", tmp_path / "run", *OPTIONS)
    until((tmp_path / "run").exists, "the directory", process)  # the config stands, libraries are loaded
    process.send_signal(signal.SIGINT)
    _, err = ended(process)
    assert process.returncode == 130
    assert err.startswith("stopped by SIGINT: ")
    assert err.count("\n") == 1


def test_continuous_time_goes_on_exactly_too(tmp_path):
    """Its balance is learned beside the network, its reference drawn anew at each step."""
    words = ["experiment=sct_digits", "start=scratch", "balance=learned", "flow=reference", "flow.size=200"]
    straight = run("train.py", tmp_path / "straight", *OPTIONS, *words)
    process = begun(tmp_path / "again", 0.3, *words)
    process.send_signal(signal.SIGTERM)
    ended(process)
    assert process.returncode == 128 + signal.SIGTERM
    again = resumed(tmp_path / "again", *words)
    assert "resuming from" in again.out
    assert same(again.result, straight.result)
