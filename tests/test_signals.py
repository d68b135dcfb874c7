"""The gaps of a consistency function: what they must be for functions that are known, and where they show."""

import io
import json
import math
from types import SimpleNamespace

import pytest
import torch
from hydra import initialize_config_dir
from lightning import Fabric
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consistency.errors import UserError
from consistency.evaluate import open_checkpoint
from consistency.files.checksum import content_sha256
from consistency.lit.callbacks.reports import check_metric
from consistency.lit.callbacks.signals import Signals, excerpt
from consistency.lit.data.digits import Digits
from consistency.metrics.card import Memo
from consistency.metrics.gaps import Gaps, Probe, ProbeData, gap_figure, posterior_mean
from consistency.model.condition import Condition
from consistency.tasks.measure.gap import Gap
from consistency.tasks.session import Session
from consistency.tasks.teacher import uses_teacher_flow
from consistency.tensor import expand
from consistency.truth.oracle import Mixture
from tests.conftest import CD_MOONS, ROOT, SMALL, run
from tests.sessions import checkpoint, session
from tests.test_configs import composed
from tests.test_user import GAPS

RING = Mixture.ring()
PROBE = Probe(0.002, 80.0, count=48, levels=8, batch=48)
SOME = ProbeData(RING.sample(100, torch.Generator().manual_seed(0)).float())


def along(density=RING, teacher=None, some=SOME, probe=PROBE):
    return probe.trajectories(probe.source(density, teacher, some), some)


def end(density, x, sigma):
    """f(x, σ), by fewer steps than `Mixture.consistency` takes."""
    return density.solve(x, sigma, torch.full_like(sigma, 0.002), steps=60)


def rms(x):
    return x.double().square().mean().sqrt().item()


@pytest.fixture(scope="module")
def exact():
    return along()


class TestKnownFunctions:
    @pytest.mark.parametrize("density", [RING, Mixture.gaussian(0.5)])
    def test_the_exact_function_has_no_gap(self, density):
        gaps = PROBE.measure(lambda x, sigma, c: end(density, x, sigma), along(density))
        assert gaps.source == "exact"
        assert gaps.boundary == 0
        assert max(gaps.curves["self"] + gaps.curves["trajectory"]) < 1e-4
        assert gaps.curves["reconstruction"][-1] > 0.1  # noise as strong as this has hidden the sample

    def test_a_constant_added_is_a_gap_to_the_trajectory_and_none_to_itself(self, exact):
        gaps = PROBE.measure(lambda x, sigma, c: end(RING, x, sigma) + 0.25, exact)
        assert gaps.curves["trajectory"] == pytest.approx([0.25] * 8, abs=1e-4)
        assert gaps.boundary == pytest.approx(0.25, rel=1e-6)
        assert max(gaps.curves["self"]) < 1e-4

    def test_the_identity_moves_as_the_trajectory_does(self, exact):
        gaps = PROBE.measure(lambda x, sigma, c: x, exact)
        assert gaps.curves["self"] == pytest.approx([rms(d) for d in exact.x_sigma.diff(dim=0)], rel=1e-6)
        moved = [rms(x - exact.x_sigma[0]) for x in exact.x_sigma]
        assert gaps.curves["trajectory"] == pytest.approx(moved, rel=1e-6)
        assert gaps.curves["reconstruction"] == pytest.approx(
            [s * rms(exact.z) for s in gaps.sigma], rel=1e-4
        )

    def test_a_denoiser_is_not_consistent(self, exact):
        gaps = PROBE.measure(RING, exact)
        assert gaps.boundary == pytest.approx(0.002**2 / 0.1, rel=0.3)  # σ² times the score of a Gaussian
        assert max(gaps.curves["self"]) > 0.1
        assert gaps.curves["trajectory"][-1] > 0.3  # the mean of the data is far from all of them

    def test_means_are_those_of_the_curves(self, exact):
        gaps = PROBE.measure(RING, exact)
        assert gaps.means().keys() == GAPS
        assert gaps.means()["gap/self"] == pytest.approx(sum(gaps.curves["self"]) / 7)
        assert gaps.means()["gap/boundary"] == gaps.boundary == gaps.curves["trajectory"][0]


class TestTrajectories:
    def test_those_of_a_gaussian_are_a_change_of_scale(self):
        paths = along(Mixture.gaussian(0.5))
        assert torch.equal(paths.x_sigma[-1], (paths.x.double() + 80 * paths.z.double()).float())
        scale = ((0.25 + paths.sigma**2) / (0.25 + 80**2)).sqrt()
        assert torch.allclose(paths.x_sigma, expand(scale, paths.x_sigma) * paths.x_sigma[-1], rtol=1e-5)

    def test_a_denoiser_is_followed_to_second_order(self, exact):
        errors = []
        for substeps in (4, 8, 16):
            probe = Probe(0.002, 80.0, 48, 8, substeps)
            followed = along(None, lambda x, sigma, c: RING(x.double(), sigma), probe=probe)
            assert followed.source == "teacher"
            errors.append(rms(followed.x_sigma[0] - exact.x_sigma[0]))
        assert 3 < errors[0] / errors[1] < 6
        assert 3 < errors[1] / errors[2] < 6

    def test_those_of_a_finite_data_set_end_at_its_samples(self):
        paths = along(None)
        assert paths.source == "data"
        nearest = torch.cdist(paths.x_sigma[0], SOME.x).amin(1)
        assert nearest.median() < 0.01

    def test_the_posterior_mean_is_that_of_the_class(self):
        x, sigma = torch.randn(30, 2).double(), torch.full((30,), 0.5).double()
        label = torch.arange(30) % 2
        D = posterior_mean(ProbeData(SOME.x, Condition(torch.arange(100) % 2)))
        for c in (0, 1):
            own = Mixture.finite(SOME.x[c::2]).denoise(x, sigma)
            assert torch.allclose(D(x, sigma, Condition(label))[label == c], own[label == c])
        assert torch.allclose(posterior_mean(SOME)(x, sigma), Mixture.finite(SOME.x)(x, sigma))

    def test_f_and_the_teacher_are_told_the_class(self):
        some, seen = ProbeData(SOME.x, Condition(torch.arange(100) % 10)), []

        def f(x, sigma, c):
            seen.append(c.label)
            return 0 * x

        PROBE.measure(f, along(None, f, some))
        assert len(seen) > 2 * PROBE.levels
        assert all(torch.equal(label, some.c.label[:48]) for label in seen)

    def test_the_same_numbers_give_the_same_points_and_no_other_random_number_moves(self, exact):
        state = torch.get_rng_state()
        again, batched = along(), along(probe=Probe(0.002, 80.0, 48, 8, batch=7))
        other = along(probe=Probe(0.002, 80.0, 48, 8, seed=1))
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(again.x_sigma, exact.x_sigma)
        assert torch.equal(batched.x_sigma, exact.x_sigma)
        assert not torch.equal(other.z, exact.z)

    def test_the_batch_moves_no_number(self, exact):
        parts = []

        def f(x, sigma, c):
            parts.append(len(x))
            return RING(x, sigma)

        one = PROBE.measure(f, exact)
        two = Probe(0.002, 80.0, 48, 8, batch=7).measure(f, exact)
        assert set(parts) == {48, 7, 6}
        assert two.means() == pytest.approx(one.means(), rel=1e-5)

    def test_few_samples_are_taken_again_with_other_noise(self):
        paths = along(some=ProbeData(SOME.x[:5]))
        assert torch.equal(paths.x[:5], paths.x[5:10])
        assert not torch.equal(paths.z[:5], paths.z[5:10])


class TestExcerpt:
    def test_every_sample_once_as_the_network_sees_it(self):
        data = Digits(batch_size=8, conditional=True)
        some = excerpt(data, PROBE, torch.device("cpu"))
        assert some.x.shape == (1797, 1, 8, 8)
        assert some.x.std().item() == pytest.approx(0.5, rel=1e-3)
        assert torch.equal(
            some.x.flatten(1).sum(1).sort()[0], data.codec.encode(data.real()).flatten(1).sum(1).sort()[0]
        )
        assert torch.equal(some.c.label.bincount(), data.data.label.bincount())
        assert not torch.equal(some.c.label, data.data.label)  # files may be in order

    def test_of_many_a_bounded_part(self):
        index = PROBE.pool(100_000)
        assert len(index) == len(index.unique()) == 2048
        assert len(Probe(0.002, 80.0, count=3000).pool(100_000)) == 3000


@pytest.mark.parametrize("key", ["count", "levels", "substeps"])
def test_numbers_that_make_no_trajectory_are_refused_by_their_key(key):
    with pytest.raises(UserError, match=rf"callbacks\.signals\.{key}=0 must be at least"):
        Signals(0.002, 80.0, **{key: 0})


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_the_picture_says_whose_trajectories_they_are_and_bears_any_number(value):
    same = {name: [value] * n for name, n in (("self", 2), ("trajectory", 3), ("reconstruction", 3))}
    for source, words in (("exact", "exact flow"), ("teacher", "teacher's"), ("data", "training samples'")):
        drawn = gap_figure(Gaps(source, [0.002, 0.4, 80.0], value, same))
        drawn.savefig(io.BytesIO())
        (axes,) = drawn.axes
        assert words in axes.get_legend().get_texts()[1].get_text()
        assert axes.get_title() == f"boundary error at σ = 0.002: {value:.2g}"


def test_the_lines_stand_over_their_levels(exact):
    gaps = PROBE.measure(RING, exact)
    own, trajectory, _ = gap_figure(gaps).axes[0].lines
    assert list(own.get_xdata()) == gaps.sigma[1:]
    assert list(trajectory.get_xdata()) == gaps.sigma
    assert list(own.get_ydata()) == gaps.curves["self"]


@pytest.fixture
def hydra():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """Its best checkpoint follows the boundary error, which an iCT network does not have at any step."""
    options = [*SMALL, "trainer.max_steps=40", "trainer.val_check_interval=10", "optimized_metric=boundary"]
    return run("train.py", tmp_path_factory.mktemp("digits"), *options)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    options = [
        *SMALL,
        *CD_MOONS,
        "trainer.max_steps=10",
        "trainer.val_check_interval=10",
    ]
    options += ['teacher_run.overrides=["trainer.max_steps=50"]']
    return run("train.py", tmp_path_factory.mktemp("student"), *options)


def asked(directory, checkpoint, memo=None, **options):
    """The answer of task=gap, and its gap.json."""
    directory.mkdir()
    fabric = Fabric(accelerator="cpu", devices=1)
    config = composed(f"ckpt_path={checkpoint}", name="eval")
    session = Session(directory, fabric, "32-true", Memo(memo), None, lambda: open_checkpoint(config, fabric))
    outcome = Gap(**options)(session)
    return outcome, json.loads((directory / "gap.json").read_text())


def test_raw_loss_is_no_measure_and_the_gaps_are():
    module, callbacks = SimpleNamespace(samplers={"1step": None}), [Signals(0.002, 80.0)]
    for name in ("loss", "train/loss"):
        with pytest.raises(UserError, match=f"optimized_metric={name} is not measured"):
            check_metric(name, module, callbacks)
    for name in GAPS:
        check_metric(name, module, callbacks)
        check_metric(name.removeprefix("gap/"), module, callbacks)


def test_the_best_checkpoint_may_follow_a_gap(digits):
    assert digits.status == 0, digits.err
    events = EventAccumulator(str(digits.directory / "tensorboard"))
    events.Reload()
    assert [event.value for event in events.Scalars("gap/boundary")[:4]] == [0, 0, 0, 0]
    assert events.Scalars("gap/trajectory")[3].value < events.Scalars("gap/trajectory")[0].value
    best = torch.load(digits.directory / "checkpoints" / "best.ckpt", weights_only=True)
    assert best["global_step"] == 10  # the first of equals, though samples and other gaps were best at 40
    assert len(events.Images("gap/by_sigma")) == 4


def test_watching_changes_nothing(digits, tmp_path):
    blind = run("train.py", tmp_path, *SMALL, "trainer.max_steps=40", "callbacks.signals=null")
    assert blind.result["weights_sha256"] == digits.result["weights_sha256"]
    assert not GAPS & blind.result["metrics"].keys()


def test_eval_gap_measures_what_the_run_did_and_once(digits, tmp_path, hydra):
    place = digits.directory / "checkpoints" / "last.ckpt"
    words = ["task=gap", f"ckpt_path={place}", f"cache={tmp_path}/cache"]
    words += ["task.batch=100"]
    first = run("eval.py", tmp_path / "first", *words)
    assert first.status == 0, first.err
    own = {name: digits.result["metrics"][name] for name in GAPS}
    assert first.result["metrics"] == pytest.approx(own, rel=1e-4)  # so validation sees the average, too
    assert first.result["numbers"][0]["card"]["protocol"]["source"] == "data"
    found = json.loads((tmp_path / "first" / "gap.json").read_text())
    assert found["source"] == "data"
    assert (len(found["sigma"]), len(found["curves"]["self"])) == (12, 11)
    assert (tmp_path / "first" / "gap.png").stat().st_size > 10_000
    (kept,) = (tmp_path / "cache" / "numbers").glob("*.json")
    content = json.loads(kept.read_text().replace('"boundary": 0.0', '"boundary": 7.0'))
    del content["sha256"]
    kept.write_text(json.dumps({**content, "sha256": content_sha256(content)}))
    again, _ = asked(tmp_path / "again", place, kept.parent)  # the batch moves nothing
    assert again.metrics == {**first.result["metrics"], "gap/boundary": 7.0}
    other, _ = asked(tmp_path / "other", place, kept.parent, seed=1)
    assert other.metrics["gap/self (seed=1)"] != again.metrics["gap/self"]


def test_gaps_that_are_measured_otherwise_have_other_names(digits, tmp_path, hydra):
    place = digits.directory / "checkpoints" / "last.ckpt"
    finer, found = asked(tmp_path / "finer", place, count=512, levels=24)
    assert finer.metrics.keys() == {f"{name} (count=512, levels=24)" for name in GAPS}
    assert len(found["sigma"]) == 24
    assert finer.numbers[0]["values"] == finer.metrics
    own = digits.result["metrics"]["gap/self"]
    assert finer.metrics["gap/self (count=512, levels=24)"] < 0.7 * own  # neighbours are closer
    same, _ = asked(tmp_path / "same", place, count=256, levels=12, substeps=2)
    assert same.metrics.keys() == GAPS


def test_a_run_with_points_of_its_own_is_measured_there(tmp_path, hydra):
    own = ["callbacks.signals.count=40", "callbacks.signals.levels=5", "trainer.max_steps=5"]
    there = run("train.py", tmp_path / "run", *SMALL, *own)
    assert there.status == 0, there.err
    outcome, found = asked(tmp_path / "gap", there.directory / "checkpoints" / "last.ckpt")
    assert len(found["sigma"]) == 5
    assert outcome.metrics == pytest.approx({name: there.result["metrics"][name] for name in GAPS}, rel=1e-4)


def test_a_student_is_held_against_its_teacher_for_as_long_as_there_is_one(student, tmp_path, hydra):
    assert student.status == 0, student.err
    place = student.directory / "checkpoints" / "last.ckpt"
    outcome, found = asked(tmp_path / "with", place)
    assert found["source"] == "teacher"
    own = {name: student.result["metrics"][name] for name in GAPS}
    assert outcome.metrics == pytest.approx(own, rel=1e-4)  # the run followed it too
    teacher = student.directory / "teacher"
    with pytest.raises(UserError, match="is a teacher's, and gaps are those of a consistency function"):
        asked(tmp_path / "teacher", teacher / "checkpoints" / "last.ckpt")
    teacher.rename(tmp_path / "elsewhere")
    alone, found = asked(tmp_path / "without", place)
    assert found["source"] == "data"
    assert alone.metrics.keys() == {f"{name} (source=data)" for name in GAPS}
    of_data, followed = alone.metrics["gap/trajectory (source=data)"], outcome.metrics["gap/trajectory"]
    assert not math.isclose(of_data, followed, rel_tol=1e-3)
    reconstruction = alone.metrics["gap/reconstruction (source=data)"]
    assert reconstruction == pytest.approx(outcome.metrics["gap/reconstruction"])
    table = student.out.partition("student ")[2].partition("picture")[0]
    assert "teacher heun35" in table
    assert "gap" not in table  # which has a row per sampler


@pytest.mark.parametrize(
    ("overrides", "follows"),
    [
        (["experiment=cd_digits"], True),
        (["experiment=scd_ring"], True),
        (["experiment=cd_digits", "method=cd_cached"], False),  # pairs are kept, and the teacher goes
        (["experiment=sct_digits"], False),  # starts from a teacher, and follows the data
    ],
)
def test_a_task_measures_on_the_trajectories_of_the_run(overrides, follows, tmp_path):
    trained = session(tmp_path / "eval", checkpoint(tmp_path, *overrides)).trained
    assert uses_teacher_flow(trained) is follows


def test_numbers_that_a_task_cannot_use_are_refused_by_their_key(digits, tmp_path, hydra):
    with pytest.raises(UserError, match=r"task\.levels=1 must be at least 2"):
        asked(tmp_path / "refused", digits.directory / "checkpoints" / "last.ckpt", levels=1)
