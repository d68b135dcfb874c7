"""metrics.csv: each step once, whole at any moment, and continued where a checkpoint was."""

import errno
import os

import pytest

from consistency.errors import UserError
from consistency.files import steps
from consistency.files.atomic import Unwritable
from consistency.files.steps import StepTable, read_steps


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.csv"


def filled(path, last, table=None, first=0):
    """Values as a run logs them: some late, another column from step 6 on, a save now and then."""
    table = table or StepTable(path)
    for step in range(first, last + 1):
        table.add(step, {"loss": step / 3})
        if step and step % 3 == 0:
            table.add(step - 1, {"FD(digits), all": float(step)})
            table.save()
        if step >= 6:
            table.add(step, {"more": 1.0})
    table.save()
    return table


def test_each_step_is_one_row_with_what_came_late(path):
    filled(path, 7)
    lines = path.read_text().splitlines()
    assert lines[0] == 'step,loss,"FD(digits), all",more'
    assert lines[1:4] == ["0,0.0,,", "1,0.3333333333333333,,", "2,0.6666666666666666,3.0,"]
    assert [line.partition(",")[0] for line in lines[1:]] == [*map(str, range(8))]
    assert lines[-1] == "7,2.3333333333333335,,1.0"


def test_finished_rows_are_not_held_in_memory(path):
    table = filled(path, 500)
    assert len(table._rows) == 2


@pytest.mark.parametrize("killed", range(3, 12))
@pytest.mark.parametrize("checkpoint", [0, 3, 5, 8])
def test_a_file_that_goes_on_is_that_of_the_undisturbed_run(tmp_path, killed, checkpoint):
    whole, cut = tmp_path / "whole.csv", tmp_path / "cut.csv"
    filled(whole, 12)
    filled(cut, max(killed, checkpoint))
    again = StepTable(cut)
    again.cut(checkpoint)
    assert list(read_steps(cut)[1]) == [*range(checkpoint + 1)]
    filled(cut, 12, again, checkpoint + 1)
    assert cut.read_text() == whole.read_text()


def test_a_run_that_begins_anew_has_a_file_of_its_own(path):
    filled(path, 9)
    again = StepTable(path)
    again.cut(-1)
    assert not path.exists()
    again.add(0, {"other": 1.0})
    again.save()
    assert path.read_text() == "step,other\n0,1.0\n"


def test_a_value_of_a_row_that_is_finished_is_put_there(path):
    table = filled(path, 9)
    table.add(2, {"late": 5.0})
    table.save()
    assert read_steps(path)[1][2] == {"loss": 2 / 3, "FD(digits), all": 3.0, "late": 5.0}
    assert list(read_steps(path)[1]) == [*range(10)]


def test_numbers_that_are_not_finite_are_kept(path):
    table = StepTable(path)
    table.add(1, {"a": float("nan"), "b": float("-inf")})
    table.save()
    assert path.read_text() == "step,a,b\n1,nan,-inf\n"


def test_a_full_disk_is_one_line_and_the_file_is_as_it_was(path, monkeypatch):
    table = filled(path, 5)
    before = path.read_text()
    table.add(6, {"loss": 1.0})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Unwritable, match=r"metrics\.csv cannot be written \(No space left"):
        table.save()
    assert path.read_text() == before
    assert [p.name for p in path.parent.iterdir()] == ["metrics.csv"]
    monkeypatch.undo()
    table.save()
    assert list(read_steps(path)[1]) == [*range(7)]


def full(descriptor):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_new_values_reach_the_file_without_a_checkpoint(path, monkeypatch):
    monkeypatch.setattr(steps, "SECONDS", 0.0)
    StepTable(path).add(3, {"loss": 1.0})
    assert read_steps(path)[1] == {3: {"loss": 1.0}}


@pytest.mark.parametrize(
    "text",
    [
        "loss\n1.0\n",
        "step,loss\n1\n",
        "step,loss\n1,2,3\n",
        "step,loss\n-1,2\n",
        "step,loss\nx,2\n",
        "step,loss\n1,x\n",
        'step,loss\n1,"2\n',
        "\x00\n",
    ],
)
def test_a_damaged_file_is_refused_by_name(path, text):
    path.write_text(text)
    with pytest.raises(UserError, match=r"metrics\.csv is damaged \(.*\): move it elsewhere"):
        StepTable(path).add(5, {"loss": 1.0})


def test_a_file_without_end_is_refused(path, monkeypatch):
    filled(path, 9)
    monkeypatch.setattr(steps, "LARGEST", 10)
    with pytest.raises(UserError, match="is larger than"):
        read_steps(path)


@pytest.mark.parametrize("kind", ["symlink", "hard link", "pipe"])
def test_a_link_is_refused(tmp_path, path, kind):
    victim = tmp_path / "victim"
    victim.write_text("step,loss\n1,1.0\n")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        (path.symlink_to if kind == "symlink" else path.hardlink_to)(victim)
    with pytest.raises(UserError, match="is a link, has a second name, or is no regular file"):
        StepTable(path).cut(0)
    assert victim.read_text() == "step,loss\n1,1.0\n"
