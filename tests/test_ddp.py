"""Two processes are one: the same losses, the same curriculum, the same weights."""

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import CD_MOONS, SMALL, run

OPTIONS = [*SMALL[1:], "trainer.max_steps=20", "trainer.log_every_n_steps=1", "curriculum.s1=40", "seed=3"]
OPTIONS += ["+callbacks.mark={_target_: tests.marks.Mark, directory: '${hydra:runtime.output_dir}'}"]
OPTIONS += ["trainer.val_check_interval=20", "data.samples=63", "data.sample_batch=16"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run("train.py", tmp_path_factory.mktemp("one"), "trainer=cpu", *OPTIONS)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run("train.py", tmp_path_factory.mktemp("two"), "trainer=ddp_sim", *OPTIONS)


def scalars(run, name):
    events = EventAccumulator(str(run.directory / "tensorboard"))
    events.Reload()
    return [event.value for event in events.Scalars(name)]


def test_both_end(one, two):
    assert (one.status, two.status) == (0, 0), one.err + two.err


def test_the_first_twenty_losses_agree(one, two):
    a, b = scalars(one, "train/loss"), scalars(two, "train/loss")
    assert len(a) == len(b) == 20
    assert b == pytest.approx(a, rel=1e-5)


def test_the_curriculum_is_the_same_on_both(one, two):
    assert scalars(one, "curriculum/N") == scalars(two, "curriculum/N") == [11, 21, 41]
    marks = [two.directory / f"curriculum-{rank}.txt" for rank in (0, 1)]
    first, second = (mark.read_text() for mark in marks)
    assert first == second
    assert first.splitlines()[-1] == "19 41"


def test_samples_are_those_of_one_process(one, two):
    """Every sample is made once, whoever makes it: the metrics agree, for a number that does not divide."""
    for name, value in one.result["metrics"].items():
        assert two.result["metrics"][name] == pytest.approx(value, rel=1e-3), name


def test_weights_agree(one, two):
    states = [
        torch.load(r.directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for r in (one, two)
    ]
    for name, weight in states[0].items():
        assert torch.allclose(weight, states[1][name], rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
def test_two_processes_train_a_teacher_and_then_its_student(tmp_path):
    """The other process, which was started for the teacher, goes on with the student."""
    words = [
        *CD_MOONS,
        "net.width=32",
        "data.samples=64",
        "data.sample_batch=16",
        "seed=3",
    ]
    words += ["trainer.max_steps=8", 'teacher_run.overrides=["trainer.max_steps=8"]']
    one = run("train.py", tmp_path / "one", "trainer=cpu", *words)
    two = run("train.py", tmp_path / "two", "trainer=ddp_sim", *words)
    assert (one.status, two.status) == (0, 0), one.err + two.err
    assert two.out.count("teacher      edm_moons, first") == 1
    for name, value in one.result["metrics"].items():
        assert two.result["metrics"][name] == pytest.approx(value, rel=1e-3), name
