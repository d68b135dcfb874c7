"""Arguments of Lightning's Trainer: followed, or refused with what does their work."""

import pytest

from consistency.errors import UserError
from consistency.schema.arguments import ARGUMENTS, check_trainer_arguments
from consistency.schema.hardware import check_counts, check_hardware
from consistency.schema.targets import parameters
from tests.sessions import composed


def trainer(*words):
    return composed("train", "run_dir=a", "trainer=cpu", *words).trainer


REFUSED = [
    ("trainer.max_epochs=3", "set trainer.max_steps"),
    ("+trainer.min_epochs=3", "set trainer.max_steps"),
    ("+trainer.min_steps=5", "set trainer.max_steps"),
    ("+trainer.max_time=00:01:00:00", "ckpt_path=last"),
    ("trainer.limit_train_batches=2", "set trainer.max_steps"),
    ("trainer.limit_train_batches=0.5", "set trainer.max_steps"),
    ("+trainer.overfit_batches=1", "few images of your own"),
    ("+trainer.fast_dev_run=true", "trainer.max_steps"),
    ("+trainer.limit_val_batches=0", "set data.samples"),
    ("+trainer.limit_val_batches=1", "set data.samples"),
    ("+trainer.limit_val_batches=0.5", "set data.samples"),
    ("trainer.num_sanity_val_steps=2", "leave it at 0"),
    ("trainer.check_val_every_n_epoch=1", "set trainer.val_check_interval"),
    ("+trainer.reload_dataloaders_every_n_epochs=1", "no epochs"),
    ("+trainer.limit_test_batches=0", "eval.py"),
    ("+trainer.limit_predict_batches=0", "eval.py"),
    ("trainer.use_distributed_sampler=true", "leave it at false"),
    ("+trainer.enable_checkpointing=false", "callbacks.checkpoints"),
    ("+trainer.barebones=true", "leave it out"),
    ("+trainer.logger=false", "logger=NAME"),
    ("+trainer.callbacks=[]", "+callbacks.NAME"),
    ("+trainer.plugins=[]", "leave it out"),
    ("+trainer.default_root_dir=a", "set run_dir"),
    ("+trainer.gradient_clip_val=-1", "greater than 0"),
    ("+trainer.gradient_clip_algorithm=both", "norm or value"),
]


@pytest.mark.parametrize(("word", "remedy"), REFUSED)
def test_what_a_run_cannot_follow_is_refused_with_what_does_its_work(word, remedy):
    with pytest.raises(UserError) as caught:
        check_counts(trainer(word))
    assert str(caught.value).startswith(f"{word.lstrip('+')}: ")
    assert remedy in str(caught.value)


def test_each_argument_that_is_judged_is_one_of_lightnings():
    assert set(ARGUMENTS) <= set(parameters("lightning.Trainer") or {})
    assert {word.lstrip("+").partition("=")[0].removeprefix("trainer.") for word, _ in REFUSED} == set(
        ARGUMENTS
    )


@pytest.mark.parametrize(
    "word",
    [
        "+trainer.gradient_clip_val=1.0",
        "+trainer.gradient_clip_algorithm=value",
        "trainer.accumulate_grad_batches=2",
        "+trainer.profiler=simple",
        "+trainer.detect_anomaly=true",
        "+trainer.deterministic=true",
        "+trainer.benchmark=true",
        "+trainer.enable_progress_bar=false",
        "+trainer.limit_val_batches=1.0",
        "trainer.max_epochs=null",
    ],
)
def test_what_a_run_follows(word):
    check_counts(trainer(word))


@pytest.mark.parametrize("name", ["auto", "cpu", "gpu", "ddp", "ddp_sim", "multi_node"])
def test_every_trainer_of_the_configs_passes(name):
    check_counts(composed("train", "run_dir=a", f"trainer={name}").trainer)


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed_stage_2"])
def test_strategies_that_divide_the_network(strategy):
    with pytest.raises(UserError, match=rf"^trainer\.strategy={strategy}: .*use trainer=ddp"):
        check_trainer_arguments(trainer(f"+trainer.strategy={strategy}"))


@pytest.mark.parametrize(
    ("precision", "remedy"),
    [
        ("16-true", "bf16-mixed"),
        ("bf16-true", "32-true"),
        ("64-true", "in float64 anyway"),
        ("64", "32-true"),
    ],
)
@pytest.mark.parametrize("section", ["trainer", "fabric"])
def test_precisions_in_which_weights_are_not_float32(section, precision, remedy):
    entry = {"trainer": ("train", "run_dir=a"), "fabric": ("eval",)}[section]
    config = composed(*entry, f"{section}=cpu", f"{section}.precision={precision}")
    with pytest.raises(UserError, match=rf"^{section}\.precision={precision}: .*{remedy}"):
        check_hardware(config[section])


@pytest.mark.parametrize("precision", ["32-true", "32", "16-mixed"])
def test_precisions_that_are_followed(precision):
    check_hardware(trainer(f"trainer.precision={precision}"))


@pytest.mark.parametrize(
    ("variables", "fault"),
    [
        ({}, False),
        ({"SLURM_NTASKS_PER_NODE": "1"}, False),
        ({"SLURM_NTASKS_PER_NODE": "2", "SLURM_NTASKS": "2"}, False),
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "bash"}, False),
        ({"SLURM_NTASKS_PER_NODE": "1", "SLURM_NTASKS": "1"}, True),
    ],
)
def test_as_many_processes_as_slurm_has_started(monkeypatch, variables, fault):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = composed("train", "run_dir=a", "trainer=ddp_sim").trainer
    if not fault:
        check_hardware(config)
        return
    with pytest.raises(
        UserError, match=r"^trainer\.devices=2, but SLURM_NTASKS_PER_NODE=1: set trainer\.dev"
    ):
        check_hardware(config)
