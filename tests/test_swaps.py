"""Parts chosen in place of an experiment's: what was set for the old ones goes, and a line says so."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from consistency.command.explained import explain
from consistency.console import as_option
from consistency.errors import UserError
from consistency.schema.check import check_composed
from consistency.schema.layers import Layers
from consistency.schema.swaps import METRIC, compare_values, drop_replaced
from tests.sessions import train_here

CONFIGS = Path(__file__).parents[1] / "configs"
OF_EVALUATIONS = {"as", "edit", "export", "fabric", "operator", "task"}


def options(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


EXPERIMENTS = options("experiment")
GROUPS = sorted({p.name for p in CONFIGS.iterdir() if p.is_dir()} - {"experiment", "hydra", *OF_EVALUATIONS})
CHOICES = [as_option(f"{group}={name}") for group in GROUPS for name in options(group)]
SOME = range(0, len(CHOICES), 4)  # half a second each; all pairs, an hour, under `slow`


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(*overrides):
    """The config of a command, and the lines that it prints."""
    config = compose("train", [*overrides, "run_dir=nowhere"], return_hydra_config=True)
    with open_dict(config):
        config.hydra.runtime.output_dir = "nowhere"
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config, drop_replaced(config)


def tried(experiment, choice):
    """None for a command that is sound; else what it is refused with."""
    needed = ["data.root=nowhere"] if choice == "data=image_folder" else []
    config, _ = composed(f"experiment={experiment}", choice, *needed)
    try:
        check_composed(config, "train")
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        return reason
    return None


def check_reason(experiment, choice, reason):
    """A refusal names what was chosen, or what it does not go with, as overrides; never a key nobody gave."""
    group = choice.partition("=")[0]
    assert "unknown key" not in reason, (experiment, choice, reason)
    assert "choose " in reason, (experiment, choice, reason)
    assert f"{group}=" in reason or f" {group} " in f"{reason} ", (experiment, choice, reason)


@pytest.mark.parametrize("number", SOME, ids=[CHOICES[i] for i in SOME])
def test_every_option_suits_an_experiment_or_is_refused_with_a_reason(number):
    experiment = EXPERIMENTS[7 * number % len(EXPERIMENTS)]
    reason = tried(experiment, CHOICES[number])
    if reason is not None:
        check_reason(experiment, CHOICES[number], reason)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_takes_every_option_or_says_why_not(experiment):
    refused = {choice: reason for choice in CHOICES if (reason := tried(experiment, choice)) is not None}
    for choice, reason in refused.items():
        check_reason(experiment, choice, reason)
    assert len(refused) < len(CHOICES) / 4


@pytest.mark.parametrize(
    ("words", "gone", "line"),
    [
        (
            "experiment=ict_digits method=ect",
            "curriculum.s1",
            "curriculum=stages in place of doubling: curriculum.s1=160 of experiment/ict_digits.yaml dropped",
        ),
        (
            "method=ect experiment=ict_digits data=digits64",
            "curriculum.s1",
            "of experiment/ict_digits.yaml dropped",
        ),
        ("experiment=ict_digits ema=constant", "ema.images", "ema.images=40000"),
        ("experiment=ict_cifar10 ema=half_life", "ema.mu", "ema.mu=0.99993"),
        ("experiment=scd_ring net=unet_small", "net.fmax", "net.fmax=4.0"),
        ("experiment=scd_cifar10 method=edm", "samplers.2step", "samplers=teacher in place of consistency"),
        ("experiment=ct_cifar10 target=ema_fixed", "target.mu.mu0", "target=ema_fixed in place of ema"),
        (
            "method=sct data=ring budget=points noise=uniform",
            "noise.std",
            "of method/sct.yaml dropped",
        ),
        ("experiment=cd_ddpm_digits method=ict", "module.initialise", "method=ict in place of cd"),
        ("experiment=cd_cached_cifar10 method=cd", "store", "store.count=200000"),
        ("experiment=sct_digits start=scratch", "teacher_run", "start=scratch in place of teacher"),
        (
            "experiment=flow_digits data=ring budget=points",
            "ema.images",
            "ema=constant in place of half_life",
        ),
        ("method=ict data=ring budget=points ema=half_life", "ema.mu", "of budget/points.yaml dropped"),
    ],
)
def test_what_was_set_for_the_old_part_is_dropped_and_said(words, gone, line):
    config, lines = composed(*words.split())
    assert OmegaConf.select(config, gone) is None
    assert any(line in said for said in lines), lines
    check_composed(config, "train")
    assert drop_replaced(config) == lines  # once more changes nothing
    check_composed(config, "train")


@pytest.mark.parametrize(
    ("words", "key", "value", "line"),
    [
        ("experiment=ict_digits optimizer=adam", "optimizer.lr", 0.002, "optimizer.lr=0.002 (default 0.001)"),
        ("experiment=ict_cifar10 method=ct", "curriculum.s1", 1280, "curriculum.s1=1280 (default 150)"),
        (
            "experiment=edm_fashion_mnist data=digits",
            "data.batch_size",
            64,
            "data.batch_size=64 (default 128)",
        ),
        ("experiment=sct_digits method=ict", "noise.mean", -1.8, "noise.mean=-1.8 (default -1.1)"),
        ("experiment=flow_cifar10 precond=edm", "precond.time_scale", 1000, "(default 0.25)"),
    ],
)
def test_what_fits_the_new_part_is_kept_and_said(words, key, value, line):
    config, lines = composed(*words.split())
    assert OmegaConf.select(config, key) == value
    assert any(line in said and said.endswith("kept") for said in lines), lines


@pytest.mark.parametrize(
    "words",
    [
        "experiment=ict_digits trainer=cpu optimizer.lr=0.1 +trainer.gradient_clip_val=1.0",
        "experiment=flow_cifar10 trainer=cpu",  # gradient_clip_val stands in no file of trainer/
        "experiment=ict_digits net=mlp_small",
        "experiment=cd_digits teacher.path=RUN method=icd curriculum.s1=160",
        "experiment=scd_ring derivative=central_differences",
        "method=ict data=ring budget=points solver=euler sweep=parallel",
        "method=ect data=fashion_mnist budget=half_hour",
    ],
)
def test_a_command_that_was_sound_before_is_what_it_was(words):
    config, lines = composed(*words.split())
    before = compose("train", [*words.split(), "run_dir=nowhere"])
    assert OmegaConf.to_container(config) == OmegaConf.to_container(before)
    assert lines == ()


def test_a_key_of_the_command_line_is_never_dropped():
    config, _ = composed("experiment=ict_digits", "method=ect", "curriculum.s1=160")
    assert config.curriculum.s1 == 160
    with pytest.raises(UserError, match=r"unknown key curriculum.s1: choose one of: K, S"):
        check_composed(config, "train")


def test_a_metric_of_samplers_that_are_gone_does_not_fit():
    old, new = {"samplers": {"heun35": {}}}, {"samplers": {"1step": {}}, "optimized_metric": "1step"}
    files = Layers({}, files={METRIC: "experiment/theirs"})
    (value,) = compare_values({"optimized_metric": "heun35"}, files, new, old)
    assert (value.fits, value.other) == (False, "1step")
    assert list(compare_values({"optimized_metric": "oracle_rmse"}, files, new, old)) == []


def test_a_method_whose_parts_the_experiment_replaces_says_so():
    config, lines = composed("experiment=isolation_ring", "method=ect")
    assert config.pairs._target_.endswith("TimePairs")
    said = "method=ect chooses pairs=mapped curriculum=stages, but experiment/isolation_ring.yaml chooses"
    assert any(line.startswith(said) for line in lines)
    config, lines = composed("experiment=isolation_ring", "method=ect", "pairs=mapped", "curriculum=stages")
    assert not any("which stands" in line for line in lines)
    check_composed(config, "train")


def test_the_order_of_a_command_says_nothing():
    words = ["experiment=scd_cifar10", "method=ict", "net=unet_small", "ema=constant", "data=digits"]
    (one, lines), (other, same) = composed(*words), composed(*reversed(words))
    assert OmegaConf.to_container(one) == OmegaConf.to_container(other)
    assert set(lines) == set(same) != set()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (
            "experiment=ct_cifar10 curriculum=constant",
            "target=ema reads curriculum.s0, which curriculum=constant does not have",
        ),
        ("experiment=cd_ring data=moons", "teacher=exact reads data.modes, which data=moons does not have"),
        (
            "experiment=cd_ring start=teacher",
            "start=teacher sets module.start, which ConsistencyDistillation",
        ),
    ],
)
def test_parts_that_do_not_go_together_are_named_as_overrides(words, reason):
    with pytest.raises(UserError, match=reason):
        check_composed(composed(*words.split())[0], "train")


def test_a_run_says_so_and_goes_on_from_its_checkpoint(tmp_path, capsys):
    words = ["experiment=ict_digits", "method=ect", "ema=constant", "net.width=16", "net.blocks=1"]
    small = ["data.batch_size=8", "data.samples=8", "data.images=16", "trainer=cpu", f"data_dir={tmp_path}"]
    GlobalHydra.instance().clear()
    run = [*words, *small, "callbacks.signals.count=4", "callbacks.verdict=null"]
    train_here(tmp_path / "run", *run, "trainer.max_steps=8", "trainer.val_check_interval=8")
    assert "curriculum.s1=160 of experiment/ict_digits.yaml dropped" in capsys.readouterr().out
    train_here(
        tmp_path / "run", *run, "trainer.max_steps=9", "trainer.val_check_interval=9", "ckpt_path=last"
    )
    assert "from step 8 on: trainer.max_steps=9 (was 8)" in capsys.readouterr().out
