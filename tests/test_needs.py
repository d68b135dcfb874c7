"""Data and metric are opened where they are needed, before anything is computed, and nowhere else."""

from unittest.mock import Mock

import pytest
from PIL import Image

from consistency.errors import UserError
from consistency.tasks.make.edit import Edit
from consistency.tasks.make.sample import Sample
from consistency.tasks.measure.fidelity import Fidelity
from tests.sessions import checkpoint, session, train_here

QUICK = ["trainer=cpu", "threads=1", "trainer.max_steps=2", "trainer.val_check_interval=2"]
QUICK += ["curriculum.s0=2", "curriculum.s1=4", "data.samples=8", "data.batch_size=2"]
DIGITS = ["experiment=ict_digits", "net.width=32", "net.blocks=1", *QUICK]


def images(folder, count):
    folder.mkdir()
    for i in range(count):
        Image.new("RGB", (8, 8), (40 * i, 0, 0)).save(folder / f"{i}.png")
    return ["data=image_folder", f"data.root={folder}", "data.resolution=8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["method=ict", "data=ring", "budget=points", "metric=digits", *QUICK],
            r"^metric: FD\(digits\) looks at .* metric=transport",
        ),
        ([*DIGITS, "metric=fashion"], r"^metric: FD\(fashion\) looks at .*1, 28, 28.* metric=transport"),
        ([*DIGITS, "data.samples=1"], r"^data\.samples=1: FD\(digits\) needs at least 2 .* data\.samples=2"),
    ],
)
def test_metrics_that_a_run_cannot_have_are_refused_before_training(tmp_path, words, message):
    with pytest.raises(UserError, match=message):
        train_here(tmp_path / "run", *words)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("count", [1, 3])
def test_too_few_images_are_refused_before_training(tmp_path, count):
    with pytest.raises(
        UserError, match=rf"^data: FD\S+ needs at least 4 samples .* there are {count}: use more"
    ):
        train_here(tmp_path / "run", *DIGITS, *images(tmp_path / "images", count))


def test_a_run_without_a_logger_ends_as_others(tmp_path):
    result = train_here(tmp_path / "run", *DIGITS, "logger=none")
    assert "tensorboard" not in result["paths"]
    assert not (tmp_path / "run" / "tensorboard").exists()


@pytest.fixture
def bare(tmp_path):
    """A checkpoint whose data are gone, and whose metric lacks its weights."""
    words = images(tmp_path / "images", 4)
    path = checkpoint(tmp_path, *words)
    for file in [*(tmp_path / "images").iterdir()]:
        file.unlink()
    (tmp_path / "images").rmdir()
    return path


def call(task, path, tmp_path, *overrides):
    return task(session(tmp_path / "out", path, overrides=overrides))


def test_samples_alone_need_neither_data_nor_metric(tmp_path, bare):
    nowhere = ["metric=inception", f"metric.extractor.weights={tmp_path}/nowhere.pth"]
    outcome = call(Sample(count=2, nearest=0), bare, tmp_path, *nowhere)
    assert outcome.metrics == {}
    assert (tmp_path / "out" / "1step.png").is_file()


def test_missing_data_are_noticed_before_samples_are_made(tmp_path, bare):
    with pytest.raises(UserError, match=r"^data\.root=.* does not exist.*task\.nearest=0$"):
        call(Sample(count=2), bare, tmp_path)
    assert not (tmp_path / "out" / "1step.png").exists()
    assert not (tmp_path / "out" / "sample.json").exists()


def test_metrics_of_other_data_are_refused_before_an_evaluation(tmp_path):
    path = checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"^metric: FD\(fashion\) looks at"):
        call(Fidelity(count=8), path, tmp_path, "metric=fashion")
    with pytest.raises(UserError, match=r"^task\.count=1: FD\(digits\) needs at least 2"):
        call(Fidelity(count=1), path, tmp_path)
    change = Mock(of_pixels=False, side_effect=lambda *_: pytest.fail("an image was made"))
    with pytest.raises(UserError, match=r"^metric: FD\(fashion\) looks at"):
        call(Edit(change, judged=True), path, tmp_path, "metric=fashion")
