"""A run that was killed, extended or changed leaves what it should: weights, best.ckpt, curves, pictures."""

import json
import random
import re
import shutil
import signal
import time
from types import SimpleNamespace

import pytest

from consistency.lit.data.points import Ring
from consistency.schedule.rate import Cosine
from tests.conftest import run
from tests.kills import CLOCKS, TINY, begin, curves, dies, differing, digest, finish, kill, left
from tests.waits import joined

FLAT = [*TINY, "experiment=sct_digits", "start=scratch", "rate=flat"]
FLAT.remove("curriculum.s1=40")  # its curriculum has no horizon
TAUGHT = [word for word in TINY if not word.startswith("curriculum")]
TAUGHT += ["experiment=cd_digits", "teacher_run.experiment=edm_digits"]
SHORT = [word for word in TAUGHT if word.startswith(("data.", "rate.", "callbacks.checkpoints", "trainer.l"))]
SHORT += ["trainer.max_steps=20", "trainer.val_check_interval=20"]
TAUGHT += [f"teacher_run.overrides={json.dumps(SHORT)}"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody stopped."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    finish(directory, *TINY)
    return directory


@pytest.fixture
def copy(straight, tmp_path):
    """A copy of it, to go on with."""
    return shutil.copytree(straight, tmp_path / "copy")


def files(directory):
    return {path: digest(path) for path in directory.rglob("*") if path.is_file()}


def resumed(directory, *words):
    return run("train.py", directory, *words, "ckpt_path=last")


@pytest.mark.parametrize(
    ("hook", "step", "signum"),
    [
        ("on_validation_start", 40, signal.SIGKILL),
        ("on_validation_batch_end", 40, signal.SIGTERM),
        ("on_validation_epoch_end", 60, signal.SIGKILL),  # the last
        ("on_validation_batch_end", 60, signal.SIGINT),
        ("on_train_batch_end", 60, signal.SIGTERM),
        ("on_train_end", 60, signal.SIGKILL),
        ("on_save_checkpoint", 40, signal.SIGKILL),
        ("on_train_batch_end", 3, signal.SIGKILL),  # before the first checkpoint
    ],
)
def test_a_validation_that_was_not_completed_is_made_up_for(straight, tmp_path, hook, step, signum):
    words = [*TINY, dies(tmp_path / "run", hook=hook, step=step, signum=int(signum))]
    process = begin(tmp_path / "run", *words)
    status = joined(process, "the run")
    assert status == (-signum if signum == signal.SIGKILL else 128 + signum)
    finish(tmp_path / "run", *words)
    assert differing(left(straight), left(tmp_path / "run")) == []


def kills(directory, reference, words, count, seed):
    """Runs that are killed up to three times each, at random moments; how many kills there were."""
    moments, expected, done, number = random.Random(seed), left(reference), 0, 0
    begun = time.monotonic()
    finish(directory / "timed", *words)
    span = time.monotonic() - begun
    while done < count:
        place, number = directory / str(number), number + 1
        for _ in range(min(3, count - done)):
            done += kill(place, moments.uniform(0.1, span), *words)
        finish(place, *words)
        assert differing(expected, left(place)) == []
    return done


def test_kills_at_random_moments_leave_no_trace(straight, tmp_path):
    assert kills(tmp_path, straight, TINY, 5, seed=0) >= 5


@pytest.mark.slow
def test_a_hundred_kills_leave_no_trace(straight, tmp_path):
    finish(tmp_path / "taught", *TAUGHT)
    assert kills(tmp_path / "one", straight, TINY, 70, seed=1) >= 70
    assert kills(tmp_path / "two", tmp_path / "taught", TAUGHT, 30, seed=2) >= 30  # between the two as well


def test_an_extended_run_is_the_longer_run_where_no_schedule_has_a_horizon(tmp_path):
    finish(tmp_path / "long", *FLAT)
    finish(tmp_path / "extended", *FLAT, "trainer.max_steps=40")
    finish(tmp_path / "extended", *FLAT)
    expected, found = left(tmp_path / "long"), left(tmp_path / "extended")
    assert differing(expected, found) == ["curve config/text_summary"]  # that it was extended


def test_the_learning_rate_of_an_extended_run_is_that_of_the_new_horizon(copy):
    again = resumed(copy, *TINY, "trainer.max_steps=90", "optimizer.lr=0.01")
    assert again.status == 0
    assert "from step 60 on: " in again.out
    for said in (
        "optimizer.lr=0.01 (was 0.002)",
        "trainer.max_steps=90 (was 60)",
        "rate and N(k) follow the new",
    ):
        assert said in again.out
    rate, found = Cosine(90, 10), dict(curves(copy / "tensorboard")["train/lr"])
    assert {k: found[k] for k in (64, 74, 89)} == pytest.approx(
        {k: 0.01 * rate(k) for k in (64, 74, 89)}, rel=1e-6
    )
    assert found[54] == pytest.approx(0.002 * Cosine(60, 10)(54), rel=1e-6)
    first, second = again.result["segments"]
    assert (first["steps"], second["steps"]) == ([0, 60], [60, 90])
    assert (first["lr"], second["lr"]) == (0.002, 0.01)
    assert second["changed"] == {"optimizer.lr": [0.002, 0.01], "trainer.max_steps": [60, 90]}


def test_another_batch_counts_its_own_images(copy):
    again = resumed(copy, *TINY, "trainer.max_steps=70", "data.batch_size=32")
    assert again.result["images"] == 60 * 16 + 10 * 32
    assert [s["batch_size"] for s in again.result["segments"]] == [16, 32]
    assert again.result["seconds"] == pytest.approx(sum(s["seconds"] for s in again.result["segments"]))


def test_a_step_takes_the_samples_from_its_number_times_the_batch_on():
    data = Ring(batch_size=4, points=64)
    data.trainer = SimpleNamespace(global_step=5, global_rank=0, world_size=1, accumulate_grad_batches=1)
    whole = Ring(batch_size=2, points=64).train_dataloader()
    both = [whole.batch(number).x.tolist() for number in (10, 11)]
    assert next(iter(data.train_dataloader())).x.tolist() == both[0] + both[1]


def test_more_parts_of_a_step_begin_at_a_whole_step(copy):
    again = resumed(copy, *TINY, "trainer.max_steps=63", "trainer.accumulate_grad_batches=2")
    assert (again.status, again.result["steps"]) == (0, 63)
    assert again.result["segments"][1]["changed"]["trainer.accumulate_grad_batches"] == [1, 2]


@pytest.mark.parametrize("steps", [60, 30])
def test_nothing_is_left_to_do(copy, steps):
    before = files(copy)
    again = resumed(copy, *TINY, f"trainer.max_steps={steps}")
    said = f"nothing is left to do: run_dir={copy} is at step 60 of trainer.max_steps={steps}; raise"
    assert (again.status, said in again.out) == (0, True)
    assert files(copy) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["experiment=edm_digits"],
            "experiment is edm_digits here and ict_digits in run_dir={}: give experiment=",
        ),
        (["seed=1"], "seed is 1 here and 0 in run_dir={}: give seed=0 to go on"),
        (["data.held_out=7"], "data.held_out is 7 here and 0 in run_dir={}"),
    ],
)
def test_another_run_is_refused_and_touches_nothing(copy, words, said):
    before = files(copy)
    other = [word for word in TINY if words[0].partition("=")[0] not in word and "curriculum" not in word]
    again = resumed(copy, *(TINY if "experiment" not in words[0] else other), *words)
    assert again.status == 1
    assert again.err.startswith(f"error: {said.format(copy)}")
    said = re.search(r"of that run: python \S*train\.py experiment=ict_digits ", again.err)
    assert bool(said) is ("experiment" in words[0])
    assert files(copy) == before


def test_a_file_goes_on_elsewhere_by_the_same_rules(straight, tmp_path):
    words = [*TINY, f"ckpt_path={straight}/checkpoints/best.ckpt"]
    other = run("train.py", tmp_path / "other", *words, "seed=1")
    assert f"seed is 1 here and 0 in ckpt_path={straight}/checkpoints/best.ckpt" in other.err
    same = run("train.py", tmp_path / "same", *words, "trainer.max_steps=65")
    assert (same.status, same.result["steps"]) == (0, 65)
    assert {"train/loss", *CLOCKS} <= curves(tmp_path / "same" / "tensorboard").keys()
