"""Links and pipes that somebody planted in a directory: nothing is written, cut or awaited through them."""

import os

import numpy as np
import pytest
import torch

from consistency.errors import UserError
from consistency.files.atomic import Unwritable, create, replacing, write_text
from consistency.lit.checkpoint import AtomicCheckpointIO
from consistency.tasks.files import Array

pytestmark = pytest.mark.timeout(60, method="thread")  # whoever hangs fails

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
    assert path.is_file() and not path.is_symlink()
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


@pytest.mark.parametrize("name", ["x.partial.npy", "x.made.npy"])
def test_samples_are_not_kept_through_a_link(victim, name):
    path = victim.parent / "run" / "x.npy"
    np.save(path.with_name("x.partial.npy"), np.zeros((3, 2)))  # of another shape and type
    path.with_name("x.partial.npy").unlink()
    planted("symlink", path.with_name(name), path.with_name("elsewhere.npy"))
    np.save(path.with_name("elsewhere.npy"), np.zeros((9, 9)))
    before = path.with_name("elsewhere.npy").read_bytes()
    with Array(path, (4, 2), torch.float32) as kept:
        kept.keep(range(4), torch.ones(4, 2))
    assert path.with_name("elsewhere.npy").read_bytes() == before
    assert not path.is_symlink() and np.load(path).sum() == 8
