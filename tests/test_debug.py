"""debug=: an experiment is tried before it is run."""

import shutil

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import OmegaConf, open_dict

from consistency.build import plain_config as plain_of
from consistency.command.explained import explain
from consistency.console import as_option
from consistency.continuation import compare_with_checkpoint
from consistency.data.loader import ArrayData, StepLoader
from consistency.debug import count_processes, shorten
from consistency.errors import UserError
from consistency.lit.callbacks.fall import Fall
from consistency.lit.callbacks.profile import first_lines
from consistency.schema.check import check_composed
from consistency.tasks.show.compare import read_numbers
from consistency.teachers.debugged import debug_of
from tests.sessions import session, train_here
from tests.test_swaps import CONFIGS, EXPERIMENTS

SMALL = ["net.width=16", "net.blocks=1", "data.images=64", "trainer=cpu"]
LAWS = ("curriculum", "rate", "net", "precond", "noise", "optimizer", "objective", "target", "distance")


def plain(config, part):
    return OmegaConf.to_container(config[part], resolve=True)


def composed(*overrides):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [*overrides, "run_dir=nowhere"], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_is_cut_to_a_few_steps_of_its_own_laws(experiment):
    config = composed(f"experiment={experiment}", "debug=smoke")
    before = {part: plain(config, part) for part in LAWS}
    assert shorten(config) is not None
    check_composed(config, "train")
    assert (config.trainer.max_steps, config.data.batch_size, config.data.samples) == (2, 2, 2)
    assert "inception" not in OmegaConf.to_yaml(config.metric)
    assert len([part for part in config.samplers.values() if part is not None]) == 1
    assert {part: plain(config, part) for part in LAWS} == before


def test_smoke_trains_keeps_a_checkpoint_and_goes_on_from_it(tmp_path, capsys):
    small = [*SMALL, f"data_dir={tmp_path}"]
    result = train_here(tmp_path / "run", "experiment=ict_digits", "debug=smoke", *small)
    out = capsys.readouterr().out
    assert "debug=smoke: steps 1 to 4 of 6,000, batches of 2 in place of 128" in out
    assert "resuming from" in out
    assert "from step 2 on: trainer.max_steps=4 (was 2)\n" in out  # and no law bends
    assert "debug=smoke: passed, 4 steps in 2 round(s)" in out
    assert (result["debug"], result["steps"], result["verdict"]) == ("smoke", 4, None)


def test_smoke_tries_the_teacher_of_a_student_first(tmp_path, capsys):
    small = [*SMALL, f"data_dir={tmp_path}"]
    result = train_here(tmp_path / "run", "experiment=cd_digits", "debug=smoke", *small)
    assert result["steps"] == 4
    assert capsys.readouterr().out.count("debug=smoke: passed") == 1  # of the run that was asked for


def test_values_of_the_command_line_stay():
    config = composed(
        "experiment=ict_cifar10", "debug=smoke", "data.batch_size=8", "metric=inception", "debug.run.steps=3"
    )
    shorten(config)
    assert (config.data.batch_size, config.trainer.max_steps) == (8, 3)
    assert "inception" in config.metric.extractor._target_


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["trainer.max_steps=2"], "debug.run.steps=N"),
        (["ckpt_path=x.ckpt"], "leave ckpt_path out"),
        (["debug.run.steps=0"], "debug.run.steps=0"),
    ],
)
def test_what_smoke_cannot_do_is_refused(words, reason):
    with pytest.raises((UserError, InstantiationException)) as error:
        shorten(composed("experiment=ict_digits", "debug=smoke", *words))
    assert reason in str(explain(error.value))


@pytest.mark.parametrize("option", ["smoke", "overfit", "profile", "'nan'"])
def test_runs_have_a_place_of_their_own(option):
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config = compose("train", [f"debug={option}"], return_hydra_config=True)
        ordinary = compose("train", return_hydra_config=True)
    for each, start in ((config, "runs/debug/ict_digits/"), (ordinary, "runs/ict_digits/")):
        with open_dict(each):
            each.run_dir = "???"
        assert each.hydra.run.dir.startswith(start)


def test_each_process_has_a_batch():
    ways = {"cpu": 1, "ddp_sim": 2, "multi_node": 16}
    for trainer, count in ways.items():
        config = composed("experiment=ict_cifar10", "debug=smoke", f"trainer={trainer}")
        assert count_processes(config.trainer) == count
        shorten(config)
        assert config.data.batch_size == 2 * count


def test_overfit_sees_one_batch_and_says_whether_the_loss_falls(tmp_path, capsys):
    words = ["experiment=edm_digits", "debug=overfit", "debug.run.steps=80", "optimizer.lr=0.01"]
    result = train_here(tmp_path / "run", *words, *SMALL, f"data_dir={tmp_path}")
    out = capsys.readouterr().out
    assert "loss on one batch: " in out
    assert "it falls" in out
    assert (result["debug"], result["steps"]) == ("overfit", 80)


def test_a_cycle_of_batches_comes_again():
    data = ArrayData(torch.arange(40).reshape(40, 1).float())
    loader, whole = StepLoader(data, 4, 0, cycle=2), StepLoader(data, 4, 0)
    assert [loader.batch(k).x.tolist() for k in range(4)] == [whole.batch(k).x.tolist() for k in (0, 1, 0, 1)]


def test_the_line_about_the_loss_can_be_bad_news():
    fall = Fall(window=2)
    fall.losses = [1.0, 1.0, 2.0, 2.0]
    assert "1 ± 0 over the first 2 steps, 2 ± 0 over the last; it does not fall" in fall.line()
    assert not fall.falls()


@pytest.mark.parametrize(
    ("losses", "falls"),
    [
        ([3.0, 5.0] * 10 + [2.9, 4.9] * 10, False),  # within the noise
        ([3.0, 5.0] * 10 + [1.0, 3.0] * 10, True),
        ([2.0] * 20 + [1.0] * 20, True),
        ([2.0, 1.0], False),  # of one step each, nothing is known
        ([2.0] * 20 + [float("nan")] * 20, False),
        ([1e300] * 20 + [1.0, 1e300] * 10, False),
    ],
)
def test_a_loss_falls_by_more_than_two_standard_errors(losses, falls):
    fall = Fall(window=20)
    fall.losses = losses
    assert fall.falls() is falls
    assert ("; it falls (" in fall.line()) is falls


def test_overfit_that_learns_nothing_ends_with_an_error_and_keeps_its_result(tmp_path, capsys):
    words = ["experiment=edm_digits", "debug=overfit", "debug.run.steps=20", "optimizer.lr=1e-12", *SMALL]
    with pytest.raises(UserError, match="the loss on one batch does not fall in 20 steps"):
        train_here(tmp_path / "run", *words, f"data_dir={tmp_path}")
    assert "passed" not in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").is_file()


def test_profile_ends_with_the_profilers_table(tmp_path, capsys):
    words = ["experiment=ict_digits", "debug=profile", "debug.run.steps=3"]
    train_here(tmp_path / "run", *words, *SMALL, f"data_dir={tmp_path}")
    out = capsys.readouterr().out
    assert "run_training_batch" in out
    assert "more lines are in fit-profile.txt" in out
    assert "run_training_batch" in (tmp_path / "run" / "fit-profile.txt").read_text()


def test_a_long_table_is_cut():
    assert first_lines("----\na\n\nb\nc\n", 2) == "a\nb\n1 more lines are in fit-profile.txt"
    assert first_lines("a\nb", 2) == "a\nb"


def test_nan_is_the_name_of_an_option_and_detects_anomalies():
    assert as_option("debug=nan") == "debug='nan'"
    assert as_option("optimizer.lr=nan") == "optimizer.lr=nan"
    config = composed("experiment=ict_digits", "debug='nan'")
    assert config.trainer.detect_anomaly
    assert config.callbacks.guard is None


def test_nan_ends_with_the_line_of_the_forward_pass(tmp_path):
    words = ["experiment=ict_digits", "debug='nan'", "optimizer.lr=1e30", "data.samples=64", *SMALL]
    with (
        pytest.warns(UserWarning, match="Traceback of forward call"),
        pytest.raises(RuntimeError, match="returned nan values"),
    ):
        train_here(tmp_path / "run", *words, f"data_dir={tmp_path}")


def test_a_debug_run_is_no_part_of_an_ordinary_one(tmp_path, capsys):
    """Not gone on with, not a teacher, not compared."""
    small, run = [*SMALL, f"data_dir={tmp_path}"], tmp_path / "run"
    train_here(run, "experiment=cd_digits", "debug=smoke", *small)
    words = ["experiment=cd_digits", "trainer.max_steps=80", *small]
    with pytest.raises(UserError, match=r"holds a debug run \(debug=smoke\).*new run_dir"):
        train_here(run, *words, "ckpt_path=last")
    with pytest.raises(UserError, match=r"ckpt_path=.*holds a debug run"):
        train_here(tmp_path / "other", *words, f"ckpt_path={run}")
    for place in (run / "teacher", run / "teacher" / "checkpoints" / "last.ckpt"):
        with pytest.raises(UserError, match=r"last.ckpt is of a debug run \(debug=smoke\)"):
            train_here(tmp_path / "student", *words, f"teacher.path={place}")
    shutil.rmtree(run / "checkpoints")  # as where the student was refused
    with pytest.raises(UserError, match="is of a debug run"):
        train_here(run, *words)
    again = ["experiment=cd_digits", "debug=smoke", f"teacher.path={run / 'teacher'}", *small]
    assert train_here(tmp_path / "smoked", *again)["debug"] == "smoke"
    with pytest.raises(UserError, match=r"result.json is of a debug run \(debug=smoke\)"):
        read_numbers(run)
    capsys.readouterr()
    assert (
        session(tmp_path / "eval", tmp_path / "smoked" / "checkpoints" / "last.ckpt").trained.provenance.step
        == 4
    )
    assert "is of a debug run (debug=smoke): its numbers are no result" in capsys.readouterr().err


def test_looking_for_nan_may_begin_and_end_in_the_middle():
    ordinary, looking = composed("experiment=ict_digits"), composed("experiment=ict_digits", "debug='nan'")
    for there, here, given in ((ordinary, looking, ["debug"]), (looking, ordinary, [])):
        kept = {"config": plain_of(there), "global_step": 5, "experiment": "ict_digits"}
        composed("experiment=ict_digits")
        assert compare_with_checkpoint(here, "ict_digits", kept, "run_dir=x", given).step == 5
    assert debug_of(plain_of(looking)) is None


def test_the_name_of_an_option_is_in_the_config_of_its_runs():
    for name in ("smoke", "overfit", "profile"):
        assert debug_of(composed("experiment=ict_digits", f"debug={name}")) == f"debug={name}"
    assert debug_of({"debug": {"run": {"steps": 2}}}) == "debug.run"  # of an older version
    assert debug_of({}) is debug_of({"debug": {"runs": "runs/debug"}}) is None
