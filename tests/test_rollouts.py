"""Rollouts on disk: the same bytes however they were made, nothing but what was asked for, and no teacher."""

import functools
import gc
import json
import os
import signal
import threading
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from consistency.data.lock import locked
from consistency.data.origin import describe_origin, first_difference
from consistency.errors import UserError
from consistency.lit.cached import CachedDistillation
from consistency.lit.data import rollouts
from consistency.lit.data.chunks import Maker
from consistency.lit.data.digits import Digits
from consistency.lit.data.points import Moons, Ring
from consistency.lit.data.rollouts import Store
from consistency.model import solvers
from consistency.model.condition import NONE
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, Boundary
from consistency.nets.mlp import MLP
from consistency.objectives.discrete import Discrete
from consistency.objectives.distance import SquaredL2
from consistency.objectives.flow import TeacherFlow
from consistency.objectives.target import StopGradient
from consistency.objectives.weighting import InverseGap
from consistency.process.stops import Interrupted
from consistency.schedule.curriculum import Constant, Doubling, SquareRoot
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import LogNormal, UniformCells
from consistency.schedule.pairs import GridPairs
from consistency.schedule.rate import Flat
from consistency.truth.oracle import Mixture
from consistency.watch import line_writer
from tests.conftest import run, start
from tests.waits import LIMIT, ended, until

CPU = torch.device("cpu")
FLOW = TeacherFlow(Mixture.ring(), functools.partial(solvers.heun))
RING = Ring(points=1000, batch_size=64)
ROW = 2 * 2 * 4 + 2 * 8  # bytes
SIZES = {"count": 230, "chunk": 50}  # the last chunk is smaller


def objective(curriculum=None, noise=None):
    return Discrete(GridPairs(curriculum or Constant(18), noise or UniformCells()), SquaredL2(), InverseGap())


def filled(path, flow=FLOW, law=None, data=RING, **options):
    store = Store(path, **{**SIZES, **options})
    store.fill(flow, law or objective(), data)
    store.open()
    return store


def content(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "store"
    filled(path)
    return content(path)


@pytest.fixture
def at_chunk(monkeypatch):
    """at_chunk(c, act): something happens while chunk c is made; None to have it happen no more."""
    make = Maker.__call__

    def happening(number, act):
        def called(self, c, n):
            if c == number:
                act()
            return make(self, c, n)

        monkeypatch.setattr(Maker, "__call__", called)

    return happening


def interrupt():
    raise KeyboardInterrupt


def made(path):
    manifest = path / "manifest.json"
    return len(json.loads(manifest.read_text())["chunks"]) if manifest.exists() else 0


# --- filling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", range(5))
def test_whoever_is_killed_in_any_chunk_goes_on_to_the_same_bytes(tmp_path, straight, at_chunk, chunk):
    at_chunk(chunk, interrupt)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "s")
    assert made(tmp_path / "s") == chunk
    for name in ("x_t", "t", "x_r", "r"):  # as of a chunk that was being written
        rows = np.load(tmp_path / "s" / f"{name}.npy", mmap_mode="r+")
        rows[50 * chunk :] = 7
        rows.flush()
    at_chunk(None, interrupt)
    filled(tmp_path / "s")
    assert content(tmp_path / "s") == straight


def test_a_signal_is_obeyed_after_the_chunk(tmp_path, straight, at_chunk):
    before = signal.getsignal(signal.SIGTERM)
    at_chunk(2, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Interrupted, match="SIGTERM"):
        filled(tmp_path / "s")
    assert signal.getsignal(signal.SIGTERM) is before
    assert made(tmp_path / "s") == 3
    with pytest.raises(UserError, match="is not full"):
        Store(tmp_path / "s", **SIZES).open()
    at_chunk(None, interrupt)
    filled(tmp_path / "s")
    assert content(tmp_path / "s") == straight


def test_a_full_store_is_not_made_again(tmp_path, straight):
    filled(tmp_path / "s")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "s").glob("*[ny]")}
    filled(tmp_path / "s")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "s").glob("*[ny]")} == before
    assert len(before) == 5


def test_chunks_and_seeds_differ(tmp_path):
    one, other = filled(tmp_path / "a"), filled(tmp_path / "b", seed=1)
    x = one._columns["x_t"]
    assert len(np.unique(x, axis=0)) == len(x)
    assert not np.isin(x, other._columns["x_t"]).any()


def test_a_filling_store_is_waited_for(tmp_path, capfd):
    beats = []
    with locked(tmp_path / "s", lambda: None):
        waiting = threading.Thread(target=lambda: hold(tmp_path / "s", beats))
        waiting.start()
        until(lambda: len(beats) >= 2, "two beats")
        assert "done" not in beats
    waiting.join(LIMIT)
    assert beats[-1] == "done"
    assert "waiting for another run" in capfd.readouterr().err


def hold(path, beats):
    with locked(path, lambda: beats.append("beat"), seconds=0.01):
        beats.append("done")


def test_lines_say_how_far_and_how_long_still(capsys):
    advance = line_writer("rollouts", 100, 20, seconds=0.0)
    time.sleep(0.1)
    advance(60)
    line_writer("quiet", 100, 0, seconds=60)(50)
    assert capsys.readouterr().err == "rollouts: 60/100, 0:00:00 left\n"


# --- refusals ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("law", [Doubling(10, 1280, 1000), SquareRoot(2, 150, 1000)])
def test_pairs_that_become_finer_are_refused(tmp_path, law):
    with pytest.raises(UserError, match=r"N goes from \d+ to \d+, .* choose curriculum=constant"):
        filled(tmp_path / "s", law=objective(law))
    assert not (tmp_path / "s").exists()


def test_the_bound_is_kept_before_anything_is_written(tmp_path):
    fits = Store(tmp_path / "s", **SIZES, max_gib=230 * ROW / 2**30)
    with pytest.raises(UserError, match=r"store\.count=231 .* store\.max_gib=.*: raise that, or lower"):
        filled(tmp_path / "s", count=231, max_gib=fits.max_gib)
    assert not (tmp_path / "s").exists()
    fits.fill(FLOW, objective(), RING)
    written = sum(file.stat().st_size for file in (tmp_path / "s").glob("*.npy"))
    assert written == 230 * ROW + 4 * 128  # headers


def test_a_disk_without_room_is_refused_and_what_is_done_counts(tmp_path, monkeypatch, at_chunk):
    monkeypatch.setattr(rollouts, "free_bytes", lambda path: 180 * ROW)
    with pytest.raises(UserError, match=r"needs .* GiB more, and .* are free"):
        filled(tmp_path / "s")
    assert not (tmp_path / "s").exists()
    monkeypatch.setattr(rollouts, "free_bytes", lambda path: 230 * ROW)
    at_chunk(1, interrupt)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "s")
    at_chunk(None, interrupt)
    monkeypatch.setattr(rollouts, "free_bytes", lambda path: 180 * ROW)
    filled(tmp_path / "s")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store\.path=.*file/s cannot be written \(Not a directory\)"):
        filled(tmp_path / "file" / "s")


def net(seed=0):
    torch.manual_seed(seed)
    return MLP((2,), width=16, blocks=1)


DENOISER = Denoiser(net(), EDM()).eval()
BLURRED = replace(Mixture.ring(), std=0.2)


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("flow.teacher.std is 0.1 there and 0.2 here", {"flow": replace(FLOW, teacher=BLURRED)}),
        ("flow.teacher.weights is ", {"flow": TeacherFlow(Mixture.ring(7))}),
        ("flow.teacher is Mixture there and Denoiser here", {"flow": TeacherFlow(DENOISER)}),
        ("flow.solver is heun there and euler here", {"flow": replace(FLOW, solver=solvers.euler)}),
        ("flow.substeps is 1 there and 2 here", {"flow": replace(FLOW, substeps=2)}),
        ("pairs.curriculum.N is 18 there and 36 here", {"law": objective(Constant(36))}),
        ("pairs.noise is UniformCells there and LogNormal here", {"law": objective(noise=LogNormal())}),
        ("data.x is ", {"data": Ring(points=999, batch_size=64)}),
        ("data.flip is False there and True here", {"data": Ring(points=1000, batch_size=64, flip=True)}),
        ("seed is 0 there and 1 here", {"seed": 1}),
        ("count is 230 there and 200 here", {"count": 200}),
        ("chunk is 50 there and 60 here", {"chunk": 60}),
    ],
)
def test_what_was_made_of_something_else_is_refused(tmp_path, straight, name, asked):
    (tmp_path / "s").mkdir()
    for file, data in straight.items():
        (tmp_path / "s" / file).write_bytes(data)
    with pytest.raises(UserError) as refused:
        filled(tmp_path / "s", **asked)
    assert f"store.path={tmp_path}/s holds other pairs: {name}" in str(refused.value)
    assert "choose another store.path, or delete it" in str(refused.value)
    assert content(tmp_path / "s") == straight


def test_networks_are_told_apart_by_weights_and_preconditioner():
    same, other = (describe_origin("D", Denoiser(net(seed), EDM())) for seed in (0, 1))
    assert first_difference(describe_origin("D", DENOISER), same) is None
    assert first_difference(describe_origin("D", DENOISER), other).startswith("D.weights is ")
    assert "sigma_data" in first_difference(same, describe_origin("D", Denoiser(net(), EDM(sigma_data=1.0))))


def test_an_origin_survives_json():
    found = describe_origin("pairs", objective(noise=LogNormal()).pairs) | describe_origin("f", FLOW)
    assert first_difference(json.loads(json.dumps(found)), found) is None


@pytest.mark.parametrize("name", ["x_t", "t", "x_r", "r", "label"])
def test_a_flipped_bit_is_found_and_named(tmp_path, name):
    data = Moons(points=500, batch_size=64, conditional=True)
    filled(tmp_path / "s", data=data)
    file = tmp_path / "s" / f"{name}.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last chunk
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"store\.path=.* is damaged in chunk 4, pairs 200 to 229; .* delete"):
        filled(tmp_path / "s", data=data)


def test_a_damaged_chunk_is_found_before_hours_are_spent(tmp_path, at_chunk):
    at_chunk(2, interrupt)
    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "s")
    with (tmp_path / "s" / "x_r.npy").open("r+b") as file:
        file.seek(128)
        file.write(b"\xff")
    with pytest.raises(UserError, match="is damaged in chunk 0, pairs 0 to 49"):
        filled(tmp_path / "s")


@pytest.mark.parametrize(
    ("spoil", "match"),
    [
        (lambda path: (path / "x_t.npy").unlink(), "is not whole"),
        (lambda path: os.truncate(path / "x_r.npy", 1000), "is not whole"),
        (lambda path: (path / "manifest.json").write_text("{"), r"has a damaged manifest\.json"),
        (lambda path: (path / "manifest.json").write_text("[]"), r"has a damaged manifest\.json"),
        (
            lambda path: (path / "manifest.json").write_text('{"origin": 1, "chunks": 2}'),
            "damaged",
        ),
    ],
)
def test_files_that_are_missing_or_cut_are_named(tmp_path, spoil, match):
    filled(tmp_path / "s")
    spoil(tmp_path / "s")
    with pytest.raises(UserError, match=match):
        filled(tmp_path / "s")


# --- serving ----------------------------------------------------------------------------------------------


def test_what_is_served_is_what_the_teacher_rolls_out(tmp_path):
    store = filled(tmp_path / "s")
    x_t, t, x_r, r, c = store.draw(4096, StepDraws(0, 1), CPU)
    assert (x_t.dtype, t.dtype, r.dtype, c.label) == (torch.float32, torch.float64, torch.float64, None)
    assert torch.equal(x_r, FLOW.step(x_t, t, r, x_t, x_t, NONE))
    grid = objective().pairs.grid(18)
    i = torch.searchsorted(grid, t)
    assert torch.equal(grid[i], t)
    assert torch.equal(grid[i - 1], r)
    assert len(x_t.unique(dim=0)) == 230  # all of them


def test_labels_stay_with_their_images(tmp_path):
    data = Moons(points=500, batch_size=64, conditional=True)
    store = filled(tmp_path / "s", data=data, law=objective(noise=LogNormal(-6.0, 0.5)))
    pair = store.draw(512, StepDraws(0, 1), CPU)
    near = torch.cdist(pair.x_t, data.data.x).argmin(1)  # noise of the least level moves no point far
    calm = pair.t < 0.01
    assert calm.sum() > 100
    assert (data.data.label[near] == pair.c.label)[calm].all()


def test_images_are_encoded(tmp_path):
    data = Digits(batch_size=64)
    store = filled(tmp_path / "s", flow=TeacherFlow(Mixture.gaussian(0.5, (1, 8, 8))), data=data)
    x_t, t, *_ = store.draw(512, StepDraws(0, 1), CPU)
    low = x_t[t < 0.01]
    assert low.shape[1:] == (1, 8, 8)
    assert low.mean().item() == pytest.approx(0, abs=0.1)
    assert low.std().item() == pytest.approx(0.5, abs=0.05)


def test_a_step_is_served_the_same_on_one_process_and_on_two(tmp_path):
    store = filled(tmp_path / "s")
    whole = store.draw(64, StepDraws(0, 1, 5), CPU)
    parts = [store.draw(32, StepDraws(0, 1, 5, rank=rank, world=2), CPU) for rank in (0, 1)]
    for name in ("x_t", "t", "x_r", "r"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


# --- training ---------------------------------------------------------------------------------------------


def module(store, teacher, law=None):
    made = CachedDistillation(
        teacher=teacher,
        flow=TeacherFlow,
        store=store,
        objective=law or objective(),
        target=StopGradient,
        model=Consistency(net(1), Boundary()),
        optimizer=lambda parameters: torch.optim.RAdam(parameters, lr=1e-3),
        rate=Flat(),
        samplers={},
        seed=0,
    )
    strategy = SimpleNamespace(root_device=CPU, broadcast=lambda value: value)
    made._trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, datamodule=RING)
    return made


def test_the_teacher_goes_once_the_store_is_full(tmp_path):
    seen = []

    def teacher():
        D = Denoiser(net(), EDM())
        seen.append(weakref.ref(D))
        return D

    student = module(Store(tmp_path / "s", **SIZES), teacher)
    gc.disable()  # not found by a collection: it goes at once
    try:
        student.setup("fit")
        assert seen[0]() is None
    finally:
        gc.enable()
    for ours, theirs in zip(student.model.parameters(), net().parameters(), strict=True):
        assert torch.equal(ours, theirs)  # where it starts
    student.terms(torch.zeros(8, 2), NONE, 0, StepDraws(0)).loss.mean().backward()
    assert all(name.startswith("model.") for name in student.state_dict())


def test_the_loss_is_that_of_live_distillation_in_the_mean(tmp_path):
    """20,000 stored pairs against as many drawn afresh: mean loss and mean ln t within 4 deviations."""
    n = 20_000
    store = Store(tmp_path / "s", count=n, chunk=5000)
    student = module(store, lambda: DENOISER)
    student.setup("fit")
    with torch.no_grad():
        x = RING.data.x[torch.arange(n) % 1000]
        cached = student.objective.compare(student.model, student.target, everything(store))
        served = student.terms(x, NONE, 0, StepDraws(7))
        live = student.objective(
            student.model, student.target, TeacherFlow(DENOISER), x, NONE, 0, StepDraws(3)
        )
    for terms in (cached, served):
        for ours, theirs in ((terms.loss, live.loss), (terms.sigma.log(), live.sigma.log())):
            deviation = (ours.var() / n + theirs.var() / n).sqrt()
            assert abs(ours.mean() - theirs.mean()) < 4 * deviation
            assert deviation < 0.05 * theirs.mean().abs()  # the comparison says something


def everything(store):
    """All pairs of a store, each once."""
    count = store.count

    class InOrder:
        def uniform(self, n, device):
            return (torch.arange(n, dtype=torch.float64) + 0.5) / count

    return store.draw(count, InOrder(), CPU)


# --- the user's view --------------------------------------------------------------------------------------

TINY = ["experiment=cd_ring", "method=cd_cached", "net.width=32", "data.samples=64"]
TINY += ["trainer.max_steps=120", "trainer.val_check_interval=120", "store.count=4096", "store.chunk=256"]
TINY += ["callbacks.checkpoints.every=20"]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return run("train.py", tmp_path_factory.mktemp("one"), *TINY, "trainer=cpu")


def test_a_run_resumes_exactly_and_another_shares_its_store(one, tmp_path):
    assert one.status == 0, one.err
    assert "4096/4096, 0:00:00 left" in one.err
    shared = [*TINY, "trainer=cpu", f"store.path={one.directory}/rollouts"]
    part = start("train.py", tmp_path / "part", *shared)
    until((tmp_path / "part" / "checkpoints" / "last.ckpt").exists, "the first checkpoint", part)
    part.kill()
    part.communicate()
    again = run("train.py", tmp_path / "part", *shared, "ckpt_path=last")
    assert "resuming from" in again.out
    assert again.result["weights_sha256"] == one.result["weights_sha256"]
    assert not (tmp_path / "part" / "rollouts").exists()


@pytest.mark.slow
def test_two_processes_fill_one_store_and_learn_the_same(one, tmp_path):
    two = run("train.py", tmp_path / "two", *TINY, "trainer=ddp_sim")
    assert two.status == 0, two.err
    assert content(two.directory / "rollouts") == content(one.directory / "rollouts")
    theirs, ours = (
        torch.load(r.directory / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for r in (one, two)
    )
    for name, weight in theirs.items():
        assert torch.allclose(weight, ours[name], rtol=1e-3, atol=1e-5), name


@pytest.mark.slow
def test_two_processes_end_together_when_one_refuses(tmp_path):
    refused = run("train.py", tmp_path / "run", *TINY, "trainer=ddp_sim", "store.max_gib=1e-6")
    assert refused.status == 1
    assert "error: store.count=4096 pairs of 32 bytes take" in refused.err
    assert "Traceback" not in refused.err


@pytest.mark.slow
def test_a_run_that_is_stopped_while_it_fills_goes_on_where_it_was(tmp_path):
    options = [
        *TINY,
        "trainer=cpu",
        "store.count=400000",
        "trainer.max_steps=2",
        "trainer.val_check_interval=2",
    ]
    process = start("train.py", tmp_path / "run", *options)
    until(lambda: made(tmp_path / "run" / "rollouts"), "the first pairs", process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in err
    assert "stopped by SIGTERM" in err
    assert "ckpt_path=last" in err
    kept = made(tmp_path / "run" / "rollouts")
    assert 0 < kept < 1563
    refused = run("train.py", tmp_path / "run", *options, "solver=euler")
    assert refused.status == 1
    assert refused.err.startswith(f"error: store.path={tmp_path}/run/rollouts holds other pairs: flow.solver")
    assert refused.err.count("\n") == 1
