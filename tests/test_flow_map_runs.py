"""Runs of flow maps: every method learns, goes on to the bit, and logs what two levels need."""

from types import SimpleNamespace

import pytest
import torch
from hydra import initialize_config_dir
from hydra.errors import InstantiationException
from torch import nn

from consistency.build import build
from consistency.lit.callbacks.two_times import RATIOS, MapGap, TwoTimeLevels, ratio_bin, two_histograms
from consistency.lit.flow_map import FlowMapTraining
from consistency.model.condition import NONE
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import LogNormal
from consistency.schedule.two_times import SortedTimes
from consistency.truth.oracle import Mixture
from tests.conftest import run
from tests.test_configs import CONFIGS, composed
from tests.test_flow_maps import exact_map
from tests.test_methods import learned

METHODS = ("meanflow", "imf", "soflow", "alphaflow", "lsd", "psd", "emd", "lmd", "ctm")
SHORT = ["data.batch_size=64", "data.samples=64", "threads=1", "trainer.val_check_interval=20"]
SHORT += ["callbacks.checkpoints.every=10", "trainer.log_every_n_steps=5", "trainer.accelerator=cpu"]


@pytest.fixture
def hydra():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.parametrize(
    ("method", "bar"),  # about twice what 400 steps leave; untrained, 0.50
    [
        ("meanflow", 0.2),
        ("imf", 0.45),
        ("soflow", 0.4),
        ("lsd", 0.2),
        ("psd", 0.2),
        ("emd", 0.2),
        ("lmd", 0.2),
    ],
)
def test_four_hundred_steps_find_the_end_of_the_exact_map(hydra, method, bar):
    assert learned(f"{method}_ring", "times.zero=0.25" if method == "emd" else "seed=0") < bar


@pytest.mark.parametrize(
    "method",
    [
        m if m in ("meanflow", "alphaflow", "lmd") else pytest.param(m, marks=pytest.mark.slow)
        for m in METHODS
    ],
)
def test_a_run_goes_on_to_the_bit(tmp_path, method):
    command = [f"experiment={method}_ring", "net.width=16", "logger=csv", *SHORT]
    horizon = ["rate.K=40"] + (["gap.K=40"] if method in ("soflow", "alphaflow") else [])
    straight = run("train.py", tmp_path / "straight", *command, *horizon, "trainer.max_steps=40")
    assert straight.status == 0, straight.err
    first = run("train.py", tmp_path / "half", *command, *horizon, "trainer.max_steps=20")
    assert first.status == 0, first.err
    again = run("train.py", tmp_path / "half", *command, *horizon, "trainer.max_steps=40", "ckpt_path=last")
    assert again.status == 0, again.err
    assert again.result["weights_sha256"] == straight.result["weights_sha256"]
    assert again.result["metrics"] == straight.result["metrics"]
    assert {"map_rmse", "diagonal_rmse", "oracle_rmse"} <= again.result["metrics"].keys()
    header = (tmp_path / "straight" / "csv" / "metrics.csv").read_text().splitlines()[0]
    assert {"loss_by_ratio/1", "loss_by_ratio/0.5-0.75"} <= set(header.split(","))


def test_the_exact_map_has_no_gap():
    v, logged = 0.7, {}
    module = SimpleNamespace(
        model=exact_map(v),
        paced=lambda: exact_map(v),
        device="cpu",
        log=lambda k, x, **_: logged.update({k: x}),
    )
    data = SimpleNamespace(density=Mixture.gaussian(v))
    gap = MapGap(points=256, levels=8)
    gap.on_validation_epoch_end(SimpleNamespace(datamodule=data), module)
    assert logged.keys() == {"map_rmse", "diagonal_rmse"}
    assert max(logged.values()) < 1e-5
    with torch.no_grad():
        module.model.net.scale.mul_(1.5)
    wrong = exact_map(v)
    wrong.net.scale.data.mul_(1.5)
    module.paced = lambda: wrong
    gap.on_validation_epoch_end(SimpleNamespace(datamodule=data), module)
    assert min(logged.values()) > 1e-2


def test_losses_are_sorted_by_the_ratio_of_the_levels():
    ratio = torch.tensor([0.0, 1e-9, 0.25, 0.3, 0.5, 0.9, 1.0], dtype=torch.float64)
    assert [RATIOS[i] for i in ratio_bin(ratio)] == [
        "0",
        "0-0.25",
        "0-0.25",
        "0.25-0.5",
        "0.25-0.5",
        "0.75-1",
        "1",
    ]


def test_the_histogram_of_both_levels_is_that_of_their_law():
    levels, law = TwoTimeLevels(0.002, 80.0, bins=12), LogNormal(-0.5, 1.4)
    times = SortedTimes(law, law, 0.25, 0.25)
    t, s = times(100_000, 0, StepDraws(0), torch.device("cpu"))
    strategy = SimpleNamespace(reduce=lambda x, reduce_op: x)
    trainer = SimpleNamespace(
        global_step=1, max_steps=10, loggers=[], is_global_zero=True, log_every_n_steps=7, strategy=strategy
    )
    outputs = {"sigma": t, "s": s, "per_sample": torch.ones(len(t))}
    levels.on_train_batch_end(trainer, nn.Module(), outputs, None, 0)
    drawn = levels.drawn / levels.drawn.sum()
    assert (drawn - times.joint_mass(levels.edges, 0)).abs().max() < 0.005
    assert levels.sums[1].tolist() == [pytest.approx(x, rel=0.1) for x in levels.sums[1].tolist()]
    assert levels.sums[1, 0] == 0.75 * 0.25 * 100_000  # s = 0
    assert levels.sums[1, -1] == 25_000  # s = t
    two_histograms(levels.edges, drawn, times.joint_mass(levels.edges, 0))
    kept = TwoTimeLevels(0.002, 80.0, bins=12)
    kept.load_state_dict(levels.state_dict())
    assert torch.equal(kept.drawn, levels.drawn)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["experiment=lsd_ring", "tangent=flow"], "flow=data knows them at x"),
        (["experiment=meanflow_ring", "times.diagonal=0"], "set model.diagonal=False"),
        (["experiment=imf_ring", "times.diagonal=0", "model.diagonal=false"], "set times.diagonal above 0"),
        (["experiment=meanflow_ring", "net.times=1"], "set net.times=2"),
        (
            ["experiment=meanflow_ring", "objective=discrete", "~times", "~units"],
            "Discrete trains a consistency",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused_before_training(hydra, overrides, message):
    with pytest.raises(InstantiationException, match=message):
        build(composed(*overrides))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_share_of_the_diagonal_does_not_depend_on_the_parts_of_a_batch(hydra, accumulate):
    _, module = build(composed("experiment=meanflow_ring"))
    assert isinstance(module, FlowMapTraining)
    n = 64 // accumulate
    terms = module.objective(
        module.model, module.target, module.flow, torch.randn(n, 2), NONE, 0, StepDraws(0)
    )
    assert (terms.s == terms.sigma).double().mean() == 0.25
