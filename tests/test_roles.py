"""Whether a file is of a denoiser or of a consistency function, and which of the two a role takes."""

import pytest

from consistency.model.denoiser import Denoiser
from consistency.tasks.teacher import teacher_of
from consistency.teachers.checkpoint import checkpoint as read
from tests.sessions import checkpoint, session


@pytest.mark.parametrize(
    ("words", "consistent"),
    [
        (["method=edm", "data=ring", "budget=points"], False),
        (["experiment=ddpm_digits", "data=ring", "budget=points"], False),
        (["experiment=flow_digits", "data=ring", "budget=points"], False),
        (["method=ict", "data=ring", "budget=points"], True),
        (["experiment=sct_ring"], True),
        (["experiment=cd_ring"], True),
    ],
)
def test_a_checkpoint_says_what_its_run_has_learned(tmp_path, words, consistent):
    assert read(checkpoint(tmp_path, *words)).is_consistency is consistent


@pytest.mark.parametrize(("method", "there"), [("edm", True), ("ict", False)])
def test_only_a_denoiser_is_measured_as_the_teacher(tmp_path, method, there):
    """A training may start from either: solvers along x - f of the latter would be nonsense."""
    (tmp_path / "first").mkdir()
    path = checkpoint(tmp_path / "first", f"method={method}", "data=ring", "budget=points")
    begun = ["method=ict", "data=ring", "budget=points", "start=teacher", f"teacher.path={path}"]
    found = session(tmp_path / "out", checkpoint(tmp_path, *begun))
    assert isinstance(found.trained.module.start(), Denoiser)
    assert (teacher_of(found.trained) is not None) is there
