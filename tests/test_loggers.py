"""The loggers of a run: which are chosen, what they are given, and where they go on."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consistency import console
from consistency.build import build_loggers
from consistency.continuation import compare_with_checkpoint
from consistency.errors import UserError
from consistency.files.steps import read_steps
from consistency.files.upgrade import upgraded_config
from consistency.lit.callbacks.curves import Curves
from consistency.lit.callbacks.noise import histogram
from consistency.lit.loggers.base import LOG, log_picture, render
from consistency.lit.loggers.csv import CSV
from consistency.lit.loggers.tensorboard import Board
from consistency.tasks.show.curves import read_curves
from consistency.tasks.show.report import NO_LOG, training_sections
from consistency.tasks.show.sweep_curves import curves_section
from consistency.teach import find_teacher, teach
from consistency.teachers.checkpoint import read_checkpoint
from tests.conftest import CD_MOONS, ROOT
from tests.sessions import composed, save_edited, train_here

TINY = [
    "method=ict",
    "data=moons",
    "budget=points",
    *("trainer=cpu", "threads=1", "net.width=16", "data.samples=64", "data.batch_size=32"),
    *("trainer.val_check_interval=5", "trainer.log_every_n_steps=2", "curriculum.s0=4"),
    *("callbacks.checkpoints.every=4", "trainer.max_steps=12"),
]
CLOCKS = "train/images_per_second"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with both local logs, and a copy of its directory as a kill at step 7 would have left it."""
    place = tmp_path_factory.mktemp("loggers")

    def copied(callback, trainer, *rest):
        after(callback, trainer, *rest)
        if trainer.global_step == 7 and not (place / "killed").exists():
            for logger in trainer.loggers:
                logger.save()
            shutil.copytree(place / "run", place / "killed")

    with pytest.MonkeyPatch.context() as patch:
        after = Curves.on_train_batch_end
        patch.setattr(Curves, "on_train_batch_end", copied)
        result = train_here(place / "run", *TINY, "logger=[tensorboard,csv]")
    return SimpleNamespace(place=place, directory=place / "run", result=result)


def table(directory):
    """The rows of metrics.csv without what depends on the machine."""
    names, rows = read_steps(directory / "csv" / "metrics.csv")
    assert CLOCKS in names
    return {step: {k: v for k, v in row.items() if k != CLOCKS} for step, row in rows.items()}


def test_the_line_that_ends_a_run_names_what_was_written(run):
    paths = run.result["paths"]
    assert [*paths] == ["picture", "checkpoint", "tensorboard", "csv"]
    assert paths["csv"] == str(run.directory / "csv" / "metrics.csv")


def test_both_logs_have_the_same_curves(run):
    events = EventAccumulator(str(run.directory / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    rows = read_steps(run.directory / "csv" / "metrics.csv")[1]
    names = events.Tags()["scalars"]
    assert {name for row in rows.values() for name in row} == {*names}
    for name in names:
        there = {event.step: event.value for event in events.Scalars(name)}
        here = {step: row[name] for step, row in rows.items() if name in row}
        assert here == pytest.approx(there, rel=1e-6)
    drawn = {f"{name.replace('/', '-')}-00000005.png" for name in events.Tags()["images"]}
    assert drawn < {path.name for path in (run.directory / "csv").iterdir()}
    assert "optimizer" in (run.directory / "csv" / "config.md").read_text()
    assert "experiment: ict_moons" in (run.directory / "csv" / "hparams.yaml").read_text()


def test_a_table_goes_on_after_a_kill_as_that_of_the_undisturbed_run(run, tmp_path):
    killed = shutil.copytree(run.place / "killed", tmp_path / "killed")
    assert max(table(killed)) > 4  # beyond the checkpoint
    train_here(killed, *TINY, "logger=[tensorboard,csv]", "ckpt_path=last")
    assert table(killed) == table(run.directory)


def test_a_run_without_a_logger_learns_the_same_and_goes_on(run, tmp_path, capsys):
    result = train_here(tmp_path / "a", *TINY, "logger=none")
    assert result["weights_sha256"] == run.result["weights_sha256"]
    assert result["metrics"] == run.result["metrics"]
    assert [*result["paths"]] == ["picture", "checkpoint"]
    assert {path.name for path in (tmp_path / "a").iterdir() if path.is_dir()} == {"checkpoints", "samples"}
    capsys.readouterr()
    longer = train_here(tmp_path / "a", *TINY, "logger=csv", "ckpt_path=last", "trainer.max_steps=16")
    assert "logger=[csv] (was [])" in capsys.readouterr().out
    assert longer["steps"] == 16
    assert min(table(tmp_path / "a")) >= 11


def test_a_run_that_goes_back_has_each_step_once(tmp_path, monkeypatch):
    from consistency.lit.callbacks.guard import Guard
    from consistency.lit.divergence import Diverged

    check, tried = Guard.on_train_batch_end, []

    def fail_once(guard, trainer, *rest):
        if trainer.global_step == 10 and not tried:
            tried.append(trainer.global_step)
            raise Diverged("for the test", 10, 1.0, 2.0)
        check(guard, trainer, *rest)

    monkeypatch.setattr(Guard, "on_train_batch_end", fail_once)
    result = train_here(tmp_path / "a", *TINY, "logger=csv")
    assert (result["rollbacks"], result["rollback_events"][0]["back_to"]) == (1, 8)
    rows = table(tmp_path / "a")
    assert [*rows] == sorted(rows)
    assert [rows[step].get("guard/rollbacks") for step in (0, 7, 8)] == [0, 0, 1]
    assert "for the test" in (tmp_path / "a" / "csv" / "guard-reason.md").read_text()


def scalars(directory):
    """Step and value of all points in the event files, sorted, without what depends on the machine."""
    events = EventAccumulator(str(directory / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    names = [name for name in events.Tags()["scalars"] if name not in (CLOCKS, "epoch")]
    return sorted((name, event.step, event.value) for name in names for event in events.Scalars(name))


@pytest.fixture(scope="module")
def without(run, tmp_path_factory):
    """The same run, killed at step 7 and gone on with from 4 to 10 without a logger."""
    directory = tmp_path_factory.mktemp("without") / "a"
    shutil.copytree(run.place / "killed", directory)
    before = {point for point in scalars(directory) if point[1] <= 4 and point[0].startswith("train/")}
    train_here(directory, *TINY, "logger=none", "ckpt_path=last", "trainer.max_steps=10")
    return SimpleNamespace(directory=directory, before=before)


def test_curves_of_loggers_that_were_out_of_use_are_kept(run, without, tmp_path):
    directory = tmp_path / "a"
    shutil.copytree(without.directory, directory)
    train_here(directory, *TINY, "logger=[tensorboard,csv]", "ckpt_path=last")
    now, rows, whole = scalars(directory), table(directory), table(run.directory)
    assert without.before < {*now}
    assert len({point[:2] for point in now}) == len(now)
    assert not [point for point in now if 4 < point[1] < 9]  # which the kill gave up
    assert not [k for k in rows if 5 < k < 9]
    assert all(rows[k] == row for k, row in whole.items() if k <= 5)
    assert max(rows) == max(point[1] for point in now) == 12


def test_a_log_that_a_checkpoint_does_not_list_is_from_before_it(without, tmp_path, monkeypatch):
    directory = tmp_path / "a"
    shutil.copytree(without.directory, directory)
    path = directory / "checkpoints" / "last.ckpt"
    content = read_checkpoint(path)
    path.unlink()
    save_edited({**content, LOG: {}}, path)  # as older versions left it
    words = ["logger=[tensorboard,csv]", "ckpt_path=last"]
    after = Curves.on_train_batch_end

    def killed(callback, trainer, *rest):
        after(callback, trainer, *rest)
        return 1 / (11 - trainer.global_step)

    monkeypatch.setattr(Curves, "on_train_batch_end", killed)
    with pytest.raises(ZeroDivisionError):
        train_here(directory, *TINY, "trainer.log_every_n_steps=1", *words)
    monkeypatch.undo()
    assert [point for point in scalars(directory) if point[1] >= 10]
    train_here(directory, *TINY, *words)
    now = scalars(directory)
    assert without.before < {*now}
    assert len({point[:2] for point in now}) == len(now)
    assert max(point[1] for point in now) == 12
    assert {0, 12} < {*table(directory)}


def test_a_run_that_begins_anew_has_no_curves_of_another(run, tmp_path):
    shutil.copytree(run.place / "killed", tmp_path / "a")
    shutil.rmtree(tmp_path / "a" / "checkpoints")
    train_here(tmp_path / "a", *TINY, "logger=[tensorboard,csv]")
    assert scalars(tmp_path / "a") == scalars(run.directory)
    assert table(tmp_path / "a") == table(run.directory)


def report_of(directory):
    """The sections of a report on how training went."""
    known = SimpleNamespace(experiment=None, config={}, run=directory)
    trained = SimpleNamespace(provenance=known, file=None)
    return [
        section
        for section in training_sections(SimpleNamespace(trained=trained))
        if section.title == "Curves"
    ]


def test_a_report_takes_the_table_where_there_are_no_events(run, tmp_path):
    (both,) = report_of(run.directory)
    shutil.copytree(run.directory / "csv", tmp_path / "csv")
    (alone,) = report_of(tmp_path)
    assert {picture.caption for picture in alone.pictures} == {picture.caption for picture in both.pictures}
    shutil.rmtree(tmp_path / "csv")
    (none,) = report_of(tmp_path)
    assert (none.notes, none.pictures) == ([NO_LOG], [])


def test_a_report_of_a_sweep_takes_the_tables_too(run, tmp_path):
    shutil.copytree(run.directory / "csv", tmp_path / "0" / "csv")
    swept = [
        SimpleNamespace(directory=tmp_path / name, name=name, result={"metrics": {}}) for name in ("0", "1")
    ]
    section = curves_section(swept, ["one", "two"])
    assert section.notes == ["Run 1 has no log in its directory."]
    assert "train/loss" in {picture.caption for picture in section.pictures}
    assert read_curves(tmp_path / "1") == {}


def made(*words):
    config = composed("train", *words)
    for node in config.logger.values():
        node.save_dir = "somewhere"
    return build_loggers(config)


@pytest.mark.parametrize(
    ("words", "kinds"),
    [
        ([], [Board]),
        (["logger=csv"], [CSV]),
        (["logger=[csv,tensorboard]"], [CSV, Board]),
        (["logger=none"], []),
        (["logger=[none,csv]"], [CSV]),
    ],
)
def test_loggers_are_chosen_by_name(words, kinds):
    assert [type(logger) for logger in made(*words)] == kinds


def test_a_logger_may_be_left_out_by_null():
    config = composed("train", "logger=[tensorboard,csv]", "logger.tensorboard=null")
    config.logger.csv.save_dir = "somewhere"
    assert [type(logger) for logger in build_loggers(config)] == [CSV]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ["tensorboard"]),
        (["logger=csv"], ["csv"]),
        (["logger=none"], []),
        (["logger=[csv,tensorboard]"], ["csv", "tensorboard"]),
        (["logger=[csv,tensorboard]", "logger.csv=null"], ["tensorboard"]),
        (["logger=csv", "teacher_run.overrides=['logger=tensorboard']"], ["tensorboard"]),
        (["logger=wandb", "logger.wandb.mode=offline"], ["wandb"]),
    ],
)
def test_a_teacher_has_the_loggers_of_its_student(tmp_path, words, names):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = [
            *CD_MOONS,
            f"run_dir={tmp_path}",
            f"hydra.run.dir={tmp_path}",
            *words,
        ]
        config = compose("train", words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        find_teacher(config, tmp_path)
        found: list[DictConfig] = []
        teach(config, tmp_path, lambda teachers, _: found.append(teachers))
    (teachers,) = found
    used = {name: node for name, node in teachers.logger.items() if node is not None}
    assert [*used] == names
    assert "wandb" not in used or used["wandb"].mode == "offline"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("logger=null", "logger=none"),
        ("augmentation=null", "augmentation=none"),
        ("net=null", "net=null"),
        ("ckpt_path=null", "ckpt_path=null"),
        ("logger.csv=null", "logger.csv=null"),
    ],
)
def test_null_is_none_where_a_group_has_that_option(given, read):
    assert console.as_option(given) == read


def checkpoint(logger):
    """Of a run with other loggers."""
    config = composed("train", "experiment=ict_digits", "run_dir=a")
    config.logger = {}
    config.callbacks = {}
    return {
        "config": {**OmegaConf.to_container(config, resolve=True), "logger": logger},
        "experiment": "ict_digits",
        "global_step": 9,
    }


def changed(logger, *words):
    config = composed("train", "experiment=ict_digits", "run_dir=a", *words)
    config.callbacks = {}
    for node in config.logger.values():
        node.save_dir = "here"
    there = checkpoint(logger)
    there["config"] = upgraded_config(there["config"])
    return compare_with_checkpoint(config, "ict_digits", there, "run_dir=a", []).changed


FORMER = {  # as checkpoints of older versions have it
    "_target_": "consistency.lit.boards.Board",
    "save_dir": "there",
    "name": "",
    "version": "tensorboard",
    "default_hp_metric": False,
}


def test_the_logger_of_an_older_checkpoint_is_the_same_logger():
    assert changed(FORMER) == {}
    assert changed(FORMER, "logger=[tensorboard,csv]") == {
        "logger": [["tensorboard"], ["tensorboard", "csv"]]
    }


def test_a_logger_that_is_left_out_is_named():
    csv = {"_target_": "consistency.lit.loggers.csv.CSV", "save_dir": "there"}
    assert changed({"csv": csv}, "logger=csv") == {}
    assert changed({"csv": csv}, "logger=none") == {"logger": [["csv"], []]}


def test_a_figure_is_the_picture_that_tensorboard_draws():
    from torch import linspace
    from torch.utils.tensorboard._utils import figure_to_image

    edges = linspace(0.1, 1, 6)
    figure = histogram(edges, edges[:-1], edges[:-1])
    theirs = np.moveaxis(figure_to_image(figure), 0, 2)
    assert np.array_equal(np.asarray(render(figure)), theirs)


def test_a_picture_is_drawn_only_where_somebody_takes_it(tmp_path):
    trainer = SimpleNamespace(loggers=[], is_global_zero=True, global_step=3)
    log_picture(trainer, "a", lambda: pytest.fail("it was drawn"))
    trainer.loggers = [CSV(str(tmp_path))]
    trainer.is_global_zero = False
    log_picture(trainer, "a", lambda: pytest.fail("it was drawn"))
    trainer.is_global_zero = True
    log_picture(trainer, "samples/../x", lambda: Image.new("L", (2, 2)))
    assert [path.name for path in (tmp_path / "csv").iterdir()] == ["samples-..-x-00000003.png"]


def test_a_table_may_not_lead_out_of_a_run(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "csv").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="out of the run directory"):
        CSV(str(tmp_path / "run")).rewind({}, 0)
