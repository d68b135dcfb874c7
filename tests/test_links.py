"""Links and pipes that somebody planted in a directory: nothing is written, cut or awaited through them."""

import os
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from consistency.errors import UserError
from consistency.files.atomic import Unwritable, create, replacing, write_text
from consistency.files.directory import FOLDERS, NAME, alone_in
from consistency.files.owned import reopened
from consistency.lit.checkpoint_io import AtomicCheckpointIO
from consistency.lit.data.rollouts import Store
from consistency.lit.loggers.tensorboard import Board, cut_back, own_files
from consistency.tasks.make.files import CHECKSUM_TYPE, Array

pytestmark = pytest.mark.timeout(600, method="thread")  # whoever hangs fails

TEXT = "not of this run"


@pytest.fixture
def victim(tmp_path):
    """A file outside the run directory, and the run directory."""
    (tmp_path / "run").mkdir()
    (tmp_path / "victim").write_text(TEXT)
    return tmp_path / "victim"


def planted(kind, path, victim):
    """A link, a second name or a pipe."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "hard link":
        path.hardlink_to(victim)
    else:
        path.symlink_to(victim)
    return path


KINDS = ["symlink", "hard link", "pipe"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_not_written_through_its_temporary_name(victim, kind):
    planted(kind, victim.parent / "run" / ".last.tmp.ckpt", victim)
    path = victim.parent / "run" / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": torch.ones(2)}}, path)
    assert victim.read_text() == TEXT
    assert path.is_file()
    assert not path.is_symlink()
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_link_at_the_name_itself_is_replaced(victim, kind):
    path = planted(kind, victim.parent / "run" / "a.txt", victim)
    write_text(path, "new")
    assert (path.read_text(), path.is_symlink(), victim.read_text()) == ("new", False, TEXT)


def test_a_folder_of_the_temporary_name_is_refused_and_left(tmp_path):
    kept = tmp_path / ".a.tmp.txt" / "kept"
    planted("symlink", kept, tmp_path)
    with pytest.raises(Unwritable, match=r"a\.txt cannot be written"), replacing(tmp_path / "a.txt"):
        pass
    assert kept.is_symlink()


def test_a_new_file_has_the_mode_that_any_other_has(tmp_path):
    create(tmp_path / "a")
    (tmp_path / "b").touch()
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


@pytest.mark.parametrize("fits", [False, True], ids=["of another shape", "of this shape"])
@pytest.mark.parametrize("name", ["x.partial.npy", "x.made.npy"])
def test_samples_are_not_kept_through_a_link(tmp_path, name, fits):
    path, other = tmp_path / "x.npy", tmp_path / "elsewhere.npy"
    np.save(path.with_name("x.partial.npy"), np.zeros((4, 2), np.float32))
    np.save(path.with_name("x.made.npy"), np.zeros(4, CHECKSUM_TYPE))
    path.with_name(name).replace(other)
    if not fits:
        np.save(other, np.zeros((9, 9)))
    path.with_name(name).symlink_to(other)
    before = other.read_bytes()
    with Array(path, (4, 2), torch.float32) as kept:
        kept.keep(range(4), torch.ones(4, 2))
    assert other.read_bytes() == before
    assert not path.is_symlink()
    assert np.load(path).sum() == 8


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_is_changed_in_place_only_if_it_has_one_name(victim, kind):
    path = planted(kind, victim.parent / "run" / "a", victim)
    with pytest.raises(UserError, match="is a link, has a second name, or is no regular file"):
        reopened(path)
    with reopened_alone(victim) as file:
        file.write(b"NOT")
    assert victim.read_text() == TEXT.replace("not", "NOT")


def reopened_alone(victim):
    """Without its second name."""
    (victim.parent / "run" / "a").unlink()
    return reopened(victim)


@pytest.mark.parametrize("kind", KINDS)
def test_a_log_is_not_cut_through_a_link(victim, kind):
    run = victim.parent / "run"
    path = planted(kind, run / "tensorboard" / "events.out.tfevents.1", victim)
    files = own_files(run / "tensorboard")
    assert files == ([path] if kind == "hard link" else [])
    for kept in (files, [path]):  # even if the link comes after the list
        with suppress(UserError):
            cut_back(kept, {path.name: 3}, 7)
    assert victim.read_text() == TEXT


def test_a_log_is_cut(tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    path.write_text(TEXT)
    cut_back([path], {path.name: 3}, 7)
    assert path.read_text() == TEXT[:3]


def test_a_directory_of_logs_may_not_lead_out_of_a_run(victim):
    (victim.parent / "elsewhere").mkdir()
    planted("symlink", victim.parent / "run" / "tensorboard", victim.parent / "elsewhere")
    with pytest.raises(UserError, match=r"tensorboard is a link to .*elsewhere, out of the run directory"):
        Board(victim.parent / "run", name="", version="tensorboard").rewind({}, 0)


@pytest.mark.parametrize("kind", ["symlink", "pipe"])
def test_hyperparameters_are_not_written_through_a_link(tmp_path, kind):
    path = planted(kind, tmp_path / "tensorboard" / "hparams.yaml", tmp_path / "missing")
    Board(tmp_path, name="", version="tensorboard").save()
    assert path.is_file()
    assert not path.is_symlink()
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_directory_may_not_lead_out_of_itself(victim, name):
    run = victim.parent / "run"
    planted("symlink", run / name, victim.parent / "elsewhere")  # which need not be there
    with pytest.raises(UserError, match=rf"{name} is a link to .*elsewhere, out of"), alone_in(run):
        pass
    (run / name).unlink()
    (run / name).symlink_to("inside")
    (victim.parent / "link").symlink_to(run)
    with alone_in(victim.parent / "link"):  # of which any part of the path may be a link
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_a_lock_that_is_a_link_is_refused(victim, kind):
    path = planted(kind, victim.parent / "run" / NAME, victim)
    with pytest.raises(UserError, match=r"\.lock is a link, has a second name"), alone_in(path.parent):
        pass
    assert victim.read_text() == TEXT


def test_a_store_of_pairs_is_not_written_through_a_link(victim):
    store = Store(victim.parent / "run", count=4)
    planted("symlink", victim.parent / "run" / "t.npy", victim)
    store._create(SimpleNamespace(layout=lambda: {"t": ((), "<f4")}))
    assert victim.read_text() == TEXT
    assert np.load(victim.parent / "run" / "t.npy").shape == (4,)
