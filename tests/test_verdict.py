"""A run that ends worse than it began, or untrained, says so; one that has only just begun does not."""

import math
import re
from dataclasses import replace

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.lit.callbacks.verdict import Look, Verdict, evaluating, uncompiled
from consistency.metrics.principal import Principal
from consistency.sampling import samplers
from consistency.schema.recipes import overrides_of
from tests.conftest import SMALL
from tests.conftest import run as process
from tests.sessions import train_here

TINY = [*SMALL, "threads=1", "net.width=16", "data.batch_size=16"]
SHORT = ["trainer.max_steps=100", "trainer.val_check_interval=100"]
WILD = [*TINY, *SHORT, "optimizer.lr=10"]
SPOILED = "teacher_run.overrides=['trainer.max_steps=40','trainer.val_check_interval=40','optimizer.lr=1e3']"
STUDENT = ["experiment=cd_digits", *TINY, *SHORT, SPOILED]
MAIN = {"digits": "FD(digits)/1step", "ring": "SW2/1step"}
BEGIN = Look(0, distance=1.2, moved=1.0, variance=0.0, weights=8.0)
REMEDY = "begin anew with less than optimizer.lr=10, and look at loss_by_sigma in its log"


def judged(begin=BEGIN, **end):
    verdict = Verdict()
    verdict.begin, verdict.end = begin, replace(BEGIN, step=100, **end)
    return verdict.fault()


def cloud(n=512, D=6, seed=0):
    scale = torch.tensor([5.0, 3.0, *[0.1] * (D - 2)])
    return 2 + scale * torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def distance(of, samples):
    return of.distance(of.coordinates(samples))


def test_distances_are_in_units_of_the_data():
    x = cloud()
    data = Principal.of(x)
    assert data.spread == pytest.approx(x.double().var(0, correction=0).sum().sqrt().item())
    assert distance(data, x) == pytest.approx(0, abs=1e-6)
    assert distance(data, x.mean(0).expand(64, -1)) == pytest.approx(1)
    assert distance(data, x + 3 * torch.eye(6)[2]) == pytest.approx(3 / data.spread, rel=1e-5)
    assert data.share(data.coordinates(x)) == pytest.approx(1)
    assert data.share(data.coordinates(2 * x)) == pytest.approx(4)


def test_noise_of_the_same_variance_is_far_from_images():
    """Smooth images: along random directions they would look like noise."""
    coarse = torch.randn(256, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = nn.functional.interpolate(coarse, size=16, mode="nearest")
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    data = Principal.of(images)
    assert data.axes.shape == (256, 4)
    assert distance(data, noise) > 0.7
    assert distance(data, images[:64]) < 0.3


def test_what_is_not_finite_has_no_distance():
    x = cloud(64)
    x[3, 1] = math.inf
    assert math.isnan(distance(Principal.of(cloud()), x))


def test_data_that_do_not_vary_have_no_axes():
    assert Principal.of(torch.full((9, 3, 2, 2), 0.3)).spread == 0
    assert Principal.of(torch.zeros(1, 2)).spread == 0


@pytest.mark.parametrize(
    ("end", "fault"),
    [
        ({"distance": 1.6}, "it ended worse than it began: .* is 1.6 .* was 1.2 before the first step"),
        ({"distance": 0.95, "weights": 100.0}, "it ended untrained: .* is 0.95 .* grown 12 times"),
        ({"distance": math.nan}, "not finite"),
    ],
)
def test_faults_have_their_numbers(end, fault):
    assert re.search(fault, judged(**end))


@pytest.mark.parametrize(
    "end",
    [
        {"distance": 1.3},  # as a curriculum may have it for a while
        {"distance": 1.2, "weights": 9.0},  # a run that has only just begun
        {"distance": 0.3, "weights": 800.0},  # large weights of good samples
    ],
)
def test_what_is_only_young_or_large_is_no_fault(end):
    assert judged(**end) is None


def test_without_a_beginning_only_what_is_not_finite_is_a_fault():
    assert judged(begin=None, distance=9.0) is None
    assert "not finite" in judged(begin=None, distance=math.inf)


def test_the_beginning_is_part_of_a_checkpoint():
    one, two = Verdict(), Verdict()
    one.begin = BEGIN
    two.load_state_dict(one.state_dict())
    assert two.begin == BEGIN
    two.load_state_dict(Verdict().state_dict())
    assert two.begin is None


@pytest.mark.parametrize(
    ("key", "value"), [("samples", 1), ("worse", 1.0), ("worse", math.nan), ("grown", math.inf)]
)
def test_impossible_verdicts_are_refused_by_key(key, value):
    with pytest.raises(UserError, match=f"callbacks.verdict.{key}={value}"):
        Verdict(**{key: value})


def test_every_part_of_a_network_is_left_in_its_mode():
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    net[0].eval()
    with evaluating(net):
        assert not net[1].training
    assert [part.training for part in net.modules()] == [True, False, True]


def test_a_compiled_network_is_not_compiled_for_the_verdict():
    def refused(*_):
        raise AssertionError("compiled")

    net = nn.Linear(2, 2)
    net.compile(backend=refused)
    with uncompiled(net):
        assert net(torch.zeros(1, 2)).shape == (1, 2)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["net.dropout=0.2", "trainer.accumulate_grad_batches=2"],
        ["method=edm", "data=ring", "budget=points"],
    ],
)
def test_training_is_the_same_without_a_verdict(words, tmp_path):
    words = [*TINY, *words, "trainer.max_steps=20", "trainer.val_check_interval=10"]
    judged = train_here(tmp_path / "judged", *words)
    alone = train_here(tmp_path / "alone", *words, "callbacks.verdict=null")
    assert judged["weights_sha256"] == alone["weights_sha256"]
    assert judged["metrics"] == alone["metrics"]
    assert judged["verdict"]["fault"] is None
    assert (judged["verdict"]["begin"]["step"], judged["verdict"]["end"]["step"]) == (0, 20)
    assert alone["verdict"] is None


@pytest.mark.parametrize(
    "words",
    [
        ["experiment=ict_digits", "optimizer.lr=10"],
        ["experiment=ict_digits", "optimizer.lr=1e3"],
        ["experiment=ict_digits", "optimizer.lr=10", "trainer.precision=bf16-mixed"],
        ["experiment=ict_digits", "optimizer.lr=10", "callbacks.guard=null"],
        ["experiment=edm_digits", "optimizer.lr=10"],
        ["method=edm", "data=moons", "budget=points", "optimizer.lr=1e3"],
        ["experiment=sct_digits", "start=scratch", "optimizer.lr=10"],
        ["method=ict", "data=ring", "budget=points", "optimizer.lr=10"],
    ],
    ids=" ".join,
)
def test_a_spoiled_run_says_so(words, tmp_path, capsys):
    result = train_here(tmp_path, *TINY, *SHORT, *words)  # no command: it raises nothing
    fault = result["verdict"]["fault"]
    assert fault.startswith(("it ended untrained: ", "it ended worse than it began: "))
    assert f"warning: the run in {tmp_path}: {fault}; begin anew with less" in capsys.readouterr().err


def test_a_command_that_spoils_its_run_ends_with_status_1_when_all_is_written(tmp_path):
    wild = process("train.py", tmp_path, *WILD)
    assert wild.status == 1
    (line,) = [line for line in wild.err.splitlines() if line.startswith("error: ")]
    assert line == f"error: the run in {tmp_path}: {wild.result['verdict']['fault']}; {REMEDY}"
    assert "100 steps" in wild.out
    assert (tmp_path / "checkpoints" / "last.ckpt").is_file()
    assert (tmp_path / "samples" / "1step.png").is_file()


def test_a_sweep_goes_on(tmp_path):
    wild = process("train.py", tmp_path, "-m", *WILD, "seed=1,2")
    assert wild.status == 1
    assert wild.err.count("error: the run in ") == wild.err.count(REMEDY) == 2
    assert (tmp_path / "table.md").read_text().count("| diverged |") == 2
    assert "error: 2 diverged of 2 runs: the table says why" in wild.err


def test_no_student_learns_from_a_spoiled_teacher(tmp_path):
    for which in ("run", "teacher"):  # the second command finds a teacher that has ended
        run = process("train.py", tmp_path, *STUDENT)
        assert run.status == 1
        assert f"error: the {which} in {tmp_path}/teacher: it ended" in run.err
        assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_nor_in_a_sweep(tmp_path):
    swept = process("train.py", tmp_path, "-m", *STUDENT, "seed=1")
    assert swept.status == 1
    assert f"error: the run in {tmp_path}/0/teacher: it ended" in swept.err
    assert not (tmp_path / "0" / "result.json").is_file()
    assert "| diverged |" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize("data", ["digits", "ring"])
def test_samples_that_are_never_finite_are_said(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samplers, "denoise_at", lambda f, x, sigma, c: x * math.nan)
    steps = ["trainer.max_steps=20", "trainer.val_check_interval=10", "optimized_metric=1step"]
    result = train_here(tmp_path, *overrides_of(f"ict_{data}"), *TINY, *steps)
    assert result["verdict"]["fault"] == "it ended with samples that are not finite"
    assert result["verdict"]["end"]["distance"] is None
    best = tmp_path / "checkpoints" / "best.ckpt"
    assert best.is_file() == (result["metrics"][MAIN[data]] is not None)  # pixels are clamped, points are not
    assert "not finite; begin anew" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_say_it_once(tmp_path):
    one = train_here(tmp_path / "one", *WILD)
    two = process("train.py", tmp_path / "two", *WILD, "trainer=ddp_sim")
    assert (two.status, two.err.count("it ended")) == (1, 1)
    assert two.result["verdict"]["begin"] == pytest.approx(one["verdict"]["begin"], rel=1e-6)
