"""Validations: progress in every part, a stop between two pieces, and what they cost beside training."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.distributed import DistNetworkError

from consistency import watch
from consistency.errors import UserError
from consistency.lit.callbacks.agreement import Agreement
from consistency.lit.callbacks.progress import RunProgress
from consistency.lit.callbacks.validation import Validation, remaining_steps
from consistency.lit.pacing import paced
from consistency.lit.run_times import Forecast, RemainingSteps, RunTimes
from consistency.metrics.features import see
from consistency.metrics.features.digits import DigitsFeatures
from consistency.metrics.fidelity import between_halves
from consistency.metrics.gaps import Probe, ProbeData
from consistency.metrics.reference import reference
from consistency.model.condition import Condition
from consistency.model.portions import WORK, Portions, portion
from consistency.process import stops
from consistency.truth.oracle import Mixture
from tests.conftest import SMALL, run
from tests.kills import TINY, begin, differing, finish, left, stops_in

CPU = torch.device("cpu")
WORDS = [*TINY, "trainer.max_steps=40", "metric.cache=null"]
DDP = [*SMALL[1:], "trainer=ddp_sim", "trainer.max_steps=10", "trainer.val_check_interval=5"]
DDP += ["data.sample_batch=8", "metric.cache=null", "callbacks.signals.count=16"]


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def passes(self, seconds):
        self.now += seconds


@pytest.fixture
def time(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(watch.time, "monotonic", clock)
    monkeypatch.setattr(watch, "_state", watch._State())
    return clock


@pytest.fixture
def listener():
    """Counts how often it is asked, and stops at one of the questions."""

    class Counting:
        asked, met, stop_at = 0, 0, None

        def between(self):
            self.asked += 1
            if self.asked == self.stop_at:
                raise stops.Stopped(signal.SIGTERM)

        def together(self):
            self.met += 1

    counting = Counting()
    stops.listen(counting)
    yield counting
    stops.listen(None)


class TestParts:
    def test_a_line_every_ten_seconds_with_the_time_left(self, time, capsys):
        with watch.in_pieces("samples", 100):
            for _ in range(25):
                time.passes(1)
                watch.tick(4)
        assert capsys.readouterr().err.splitlines() == [
            "samples: 40/100, 0:00:15 left",
            "samples: 80/100, 0:00:05 left",
        ]

    def test_short_parts_share_the_ten_seconds(self, time, capsys):
        for name in ("one", "two", "three"):
            with watch.in_pieces(name, 4):
                for _ in range(4):
                    time.passes(1)
                    watch.tick(1)
        assert capsys.readouterr().err == "three: 2/4, 0:00:02 left\n"
        assert watch.seconds_by_part() == {"one": 4, "two": 4, "three": 4}

    def test_before_the_first_piece_the_time_left_is_not_known(self, time, capsys):
        with watch.in_pieces("reference", 8):
            time.passes(11)
            watch.tick()
        assert capsys.readouterr().err == "reference: 0/8, unknown time left\n"

    def test_other_processes_write_nothing(self, time, capsys, monkeypatch):
        monkeypatch.setenv("RANK", "1")
        with watch.in_pieces("samples", 2):
            time.passes(20)
            watch.tick(1)
        assert capsys.readouterr().err == ""

    def test_a_signal_ends_it_between_two_pieces_and_the_others_are_met_once(self, listener):
        done = []
        listener.stop_at = 3  # at the beginning, after the first piece, after the second
        with pytest.raises(stops.Stopped), watch.in_pieces("samples", 5):  # noqa: PT012
            for i in range(5):
                done.append(i)
                watch.tick(1)
        assert (done, listener.met) == ([0, 1], 0)
        with watch.in_pieces("samples", 1):
            watch.tick(1)
        assert listener.met == 1

    def test_outside_any_part_nothing_is_asked(self, listener):
        watch.tick()
        assert listener.asked == 0

    def test_a_bar_opens_below_the_one_that_is_there(self, monkeypatch):
        monkeypatch.setattr(watch.sys.stderr, "isatty", lambda: True, raising=False)
        with watch.terminal() as bar:
            bar.add_task("training", total=3, left="", news="")
            with watch.in_pieces("samples", 5):
                watch.tick(2)
                assert [(task.description, task.completed) for task in bar.tasks][1] == ("samples", 2)
            assert [task.description for task in bar.tasks] == ["training"]
        assert watch._state.bar is None


class TestPieces:
    def test_the_reference_and_its_floor_are_interruptible_between_batches(self, listener):
        images = torch.randint(0, 256, (1200, 1, 8, 8), dtype=torch.uint8)
        reference(images, DigitsFeatures(), None)
        assert listener.asked >= 3 + 5  # batches of 500, and halves
        listener.asked, listener.stop_at = 0, 2
        with pytest.raises(stops.Stopped):
            reference(images, DigitsFeatures(), None)

    def test_signals_and_their_trajectories_are(self, listener):
        probe, some = Probe(0.002, 80.0, count=12, levels=4, batch=4), ProbeData(torch.randn(30, 2))
        paths = probe.trajectories(probe.source(None, None, some), some)
        assert listener.asked > 3 * probe.substeps
        listener.asked = 0
        with watch.in_pieces("outer", 1):
            probe.measure(Portions(lambda x, sigma, label: x, 4, watch.tick), paths)
        assert listener.asked > probe.calls // 4

    def test_an_exact_trajectory_is(self, listener):
        with watch.in_pieces("exact", 1):
            Mixture.ring().solve(torch.zeros(2, 2), torch.full((2,), 80.0), torch.full((2,), 0.002), steps=7)
        assert listener.asked == 8


class TestPortions:
    def test_portions_are_the_whole(self):
        x, sigma, c, seen = torch.randn(7, 2), torch.rand(7), Condition(torch.arange(7)), []

        def f(x, sigma, c):
            return x * (sigma if isinstance(sigma, float) else sigma[:, None]) + c.label[:, None]

        assert torch.equal(Portions(f, 3, seen.append)(x, sigma, c), f(x, sigma, c))
        assert torch.equal(Portions(f, 3, seen.append)(x, 2.0, c), f(x, 2.0, c))
        assert seen == [3, 3, 1] * 2

    def test_a_large_network_takes_few_samples_at_a_time_on_a_cpu(self):
        net, x = nn.Linear(1000, 1000, bias=False), torch.zeros(1, 1000)
        assert portion(net, lambda: net(x), CPU) == WORK // 2_000_000
        assert portion(net, lambda: pytest.fail("counted"), torch.device("cuda")) > 10**9

    def test_it_does_not_follow_from_the_data_or_move_a_random_number(self):
        net = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).eval()
        net.precond = None
        state = torch.get_rng_state()
        f = paced(lambda x, sigma: x, SimpleNamespace(shape=(4,), classes=0))
        assert torch.equal(f(torch.ones(3, 4), torch.ones(3)), torch.ones(3, 4))
        assert torch.equal(torch.get_rng_state(), state)

    def test_an_extractor_sees_large_images_few_at_a_time(self, monkeypatch):
        images, extractor = torch.randint(0, 256, (10, 1, 8, 8), dtype=torch.uint8), DigitsFeatures()
        whole, seen = see(images, extractor), []
        monkeypatch.setattr(extractor, "largest", lambda images: 4)
        monkeypatch.setattr(type(extractor), "see", counted(type(extractor).see, seen))
        parts = see(images, extractor)
        assert seen == [4, 4, 2]
        assert torch.allclose(parts.features, whole.features, rtol=1e-3, atol=1e-3)


def counted(see, seen):
    def counting(self, images):
        seen.append(len(images))
        return see(self, images)

    return counting


class TestSizes:
    def test_trajectories_of_large_images_are_fewer_and_a_line_says_so(self, capsys):
        probe = Probe(0.002, 80.0)
        assert probe.fitting((3, 32, 32)) is probe
        assert probe.fitting((3, 64, 64)) is probe
        assert probe.fitting((3, 256, 256)).count == 28
        assert probe.fitting((3, 4096, 4096)).count == 1
        assert len(probe.pool(5000, (3, 32, 32))) == 2048
        assert len(probe.pool(5000, (3, 256, 256))) == 341
        tiny, some = Probe(0.002, 80.0, count=3, levels=2, substeps=1), ProbeData(torch.randn(2, 2**24))
        paths = tiny.trajectories(probe.source(None, lambda x, sigma, c: x, some), some)
        assert paths.x_sigma.shape == (2, 2, 2**24)
        assert "2 trajectories in place of 3: no more of samples of this size fit" in capsys.readouterr().err


class TestPace:
    def test_the_time_left_counts_validations_once_one_is_known(self):
        clock, parts = Clock(), {}
        pace = RunTimes(clock, lambda: dict(parts))
        clock.passes(100)
        pace.trained(50)
        assert pace.left(RemainingSteps(50, 150, 50)) == (200, False)
        clock.passes(30)
        parts["reference"] = 20
        pace.validated()
        assert pace.each == 10
        assert pace.left(RemainingSteps(50, 150, 50)) == (200 + 2 * 10, True)
        assert pace.share() == 30 / 130
        assert pace.line() == "validation   1 in 30 s, 23% of the run: reference 20 s"

    def test_the_last_step_has_a_validation_due_or_not(self):
        assert [RemainingSteps(k, 25, 10).validations for k in (0, 9, 10, 20, 24, 25)] == [3, 3, 2, 1, 1, 0]
        assert [RemainingSteps(k, 20, 10).validations for k in (0, 10, 19, 20)] == [2, 1, 1, 0]

    def test_what_was_spent_goes_on_with_the_run(self):
        clock = Clock()
        first = RunTimes(clock, lambda: {"samples": clock.now})
        clock.passes(30)
        first.trained(10)
        clock.passes(10)
        first.validated()
        second = RunTimes(clock, lambda: {"samples": clock.now})
        second.load_state_dict(first.state_dict())
        clock.passes(10)
        second.validated()
        assert second.to_plain() == {"count": 2, "seconds": 20, "share": 0.4, "parts": {"samples": 20}}
        assert second.step is None  # how fast this process is, it does not know yet

    def test_a_forecast_names_the_interval_that_keeps_the_share(self):
        forecast = Forecast(each=60.0, count=10, training=1800.0, steps=1000)
        assert forecast.share == 0.25
        assert forecast.interval(0.1) == 334  # 3 validations of 60 s beside 1800 s
        assert Forecast(60.0, 1, 10.0, 100).interval(0.1) is None


def a_run(step=100, steps=1000, interval=100, fn="fit"):
    data = SimpleNamespace(samples=500)
    return SimpleNamespace(
        callbacks=[],
        datamodule=data,
        global_step=step,
        max_steps=steps,
        val_check_interval=interval,
        accumulate_grad_batches=1,
        state=SimpleNamespace(fn=fn),
    )


class TestTheLine:
    def estimated(self, capsys, seconds_of_100_steps, seconds_of_a_tenth, **how):
        clock, trainer = Clock(), a_run(**how)
        callback = Validation(0.1)
        callback.times = RunTimes(clock)
        clock.passes(seconds_of_100_steps)
        callback.times.trained(100)
        callback.work = 100
        now = watch.Work("samples", 100, clock.now, watch.do_nothing)
        clock.passes(seconds_of_a_tenth)
        now.done = 10
        callback._estimate(trainer, now)
        callback._estimate(trainer, now)
        return capsys.readouterr().err

    def test_validations_of_more_than_a_tenth_are_said_to_be_and_how_they_are_made_less(self, capsys):
        assert self.estimated(capsys, 180.0, 6.0) == (
            "validation: about 0:01:00 each time, 10 in all, 25% of this run; "
            "trainer.val_check_interval=334, or a smaller data.samples (now 500) makes it less\n"
        )

    def test_a_single_one_is_made_less_by_its_size(self, capsys):
        said = self.estimated(capsys, 10.0, 30.0, steps=100, interval=10000, fn="validate")
        assert "about 0:05:00 each time, 1 in all, 97% of this run; a smaller data.samples" in said

    @pytest.mark.parametrize(
        "seconds", [(1800.0, 6.0), (1.0, 0.1), (40.0, 5.0)], ids=["a small share", "short", "a minute"]
    )
    def test_otherwise_nothing_is_said(self, capsys, seconds):
        how = {"steps": 100, "interval": 100} if seconds[0] == 40.0 else {}
        assert self.estimated(capsys, *seconds, **how) == ""

    @pytest.mark.parametrize("share", [0, 1, -0.1, float("nan")])
    def test_a_share_is_one(self, share):
        with pytest.raises(UserError, match=r"callbacks\.validation\.share="):
            Validation(share)

    def test_the_training_line_says_whether_validations_are_counted(self):
        trainer, callback = a_run(), Validation()
        trainer.callbacks, clock = [callback], Clock()
        callback.times = RunTimes(clock)
        shown = RunProgress()
        assert shown._time_left(trainer) == "unknown time"
        clock.passes(50)
        callback.times.trained(100)
        assert shown._time_left(trainer) == "0:07:30 and validations"
        clock.passes(10)
        callback.times.validated()
        assert shown._time_left(trainer) == "0:09:00"
        assert remaining_steps(trainer).validations == 9


# --- runs -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nobody stopped."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    finish(directory, *WORDS)
    return directory


@pytest.mark.parametrize(
    ("part", "step"),
    [
        ("reference", 20),
        pytest.param("floor", 20, marks=pytest.mark.slow),
        ("samples", 20),
        pytest.param("samples of the verdict", 20, marks=pytest.mark.slow),
        pytest.param("trajectories", 20, marks=pytest.mark.slow),
        ("signals", 40),
    ],
)
def test_a_signal_in_any_part_stops_at_once_and_the_validation_is_made_up_for(straight, tmp_path, part, step):
    words = [*WORDS, stops_in(tmp_path / "run", part=f"'{part}'", step=step)]
    process = begin(tmp_path / "run", *words)
    process.join(240)
    assert process.exitcode == 143
    assert (tmp_path / "run.mark").read_text() == ""  # no piece more
    err = (tmp_path / "run.err").read_text()
    assert f"stopped by SIGTERM at step {step}, saved; go on with the same command" in err
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()
    finish(tmp_path / "run", *words)
    assert differing(left(straight), left(tmp_path / "run")) == []


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A run on two processes that nobody stopped."""
    return run("train.py", tmp_path_factory.mktemp("two"), *DDP)


@pytest.mark.slow
@pytest.mark.parametrize(("part", "rank"), [("samples", 1), ("reference", 0), ("signals", 1), ("samples", 0)])
def test_two_processes_stop_together_whoever_was_told(two, tmp_path, part, rank):
    words = [*DDP, stops_in(tmp_path / "run", part=part, step=5, rank=rank)]
    stopped = run("train.py", tmp_path / "run", *words)
    assert stopped.status == 143, stopped.err
    assert "stopped by SIGTERM at step 5, saved" in stopped.err
    assert "Traceback" not in stopped.err
    again = run("train.py", tmp_path / "run", *words, "ckpt_path=last")
    assert again.status == 0, again.err
    assert again.raw == two.raw
    assert again.result["metrics"] == two.result["metrics"]


def test_the_share_of_validation_is_printed_and_kept(straight):
    out = straight.with_name("run.out").read_text()
    assert "\nvalidation   2 in " in out
    assert "% of the run" in out


def test_the_floor_is_the_same_as_without_progress():
    seen = torch.randn(64, 3)
    expected = between_halves(seen)
    with watch.in_pieces("floor", 5):
        assert between_halves(seen) == expected


@pytest.mark.parametrize(
    ("rank", "local", "left", "said"),
    [
        (1, 1, [0], ""),
        (2, 0, [0], "another process of this run has ended, or cannot be reached\n"),
        (0, 0, [], ""),
    ],
)
def test_a_process_that_loses_the_others_before_they_met_leaves_the_line_to_the_first(
    monkeypatch, capsys, rank, local, left, said
):
    """The first one was told to stop while the second was still joining."""
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("LOCAL_RANK", str(local))
    status = []
    monkeypatch.setattr("consistency.lit.peers.os._exit", status.append)
    agreement = Agreement({}, Path(), lambda: None)
    agreement.on_exception(None, None, DistNetworkError("Broken pipe"))
    assert (status, capsys.readouterr().err) == (left, said)
    agreement.on_exception(None, None, ValueError("of its own"))
    assert status == left
