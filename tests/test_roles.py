"""Whether a file is of a denoiser or of a consistency function, and which of the two a role takes."""

import pytest

from consistency.model.maps import Consistency, Denoiser
from consistency.tasks.measure.teacher import teacher_of
from consistency.teachers.checkpoint import checkpoint as read
from consistency.teachers.checkpoint import read_checkpoint
from tests.sessions import checkpoint, session


@pytest.mark.parametrize(
    ("words", "role"),
    [
        (["method=edm", "data=ring", "budget=points"], Denoiser),
        (["experiment=ddpm_digits", "data=ring", "budget=points"], Denoiser),
        (["experiment=flow_digits", "data=ring", "budget=points"], Denoiser),
        (["method=ict", "data=ring", "budget=points"], Consistency),
        (["experiment=sct_ring"], Consistency),
        (["experiment=cd_ring"], Consistency),
    ],
)
def test_a_checkpoint_says_what_its_run_has_learned(tmp_path, words, role):
    path = checkpoint(tmp_path, *words)
    assert type(read(path)) is role
    assert read_checkpoint(path)["role"] == role.role


@pytest.mark.parametrize(("method", "there"), [("edm", True), ("ict", False)])
def test_only_a_denoiser_is_measured_as_the_teacher(tmp_path, method, there):
    """A training may start from either: solvers along x - f of the latter would be nonsense."""
    (tmp_path / "first").mkdir()
    path = checkpoint(tmp_path / "first", f"method={method}", "data=ring", "budget=points")
    begun = ["method=ict", "data=ring", "budget=points", "start=teacher", f"teacher.path={path}"]
    found = session(tmp_path / "out", checkpoint(tmp_path, *begun))
    assert isinstance(found.trained.file.build("module", "start")(), Denoiser if there else Consistency)
    assert (teacher_of(found.trained) is not None) is there
