"""Whether a file is of a denoiser or of a consistency function, and which of the two a role takes."""

import pytest
import torch

from consistency.errors import UserError
from consistency.export.diffusers import Diffusers
from consistency.export.model import Outgoing
from consistency.model.maps import Consistency, Denoiser
from consistency.tasks.teacher import teacher_of
from consistency.teachers.checkpoint import checkpoint as read
from consistency.teachers.checkpoint import read_checkpoint
from tests.conftest import ROOT, run
from tests.sessions import checkpoint, save_edited, session


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


FORMATS = {  # how a file of a consistency function is named as a teacher
    "run directory": ["teacher.path={run}"],
    "checkpoint": ["teacher.path={run}/checkpoints/last.ckpt"],
    "exported weights": ["teacher.path={weights}"],
    "diffusers folder": ["teacher=diffusers", "teacher.path={folder}"],
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    folder = tmp_path_factory.mktemp("roles")
    path = checkpoint(folder)
    t = session(folder / "eval", path).trained
    (folder / "diffusers").mkdir()
    Diffusers()(Outgoing.of(t, t.samplers), folder / "diffusers")
    weights = ROOT / "data" / "weights" / "digits.safetensors"
    return {"run": folder, "weights": weights, "folder": folder / "diffusers"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_consistency_function_is_refused_as_a_teacher_in_every_format(name, places, tmp_path):
    """In one line that says what it is and what to use."""
    given = [word.format_map(places) for word in FORMATS[name]]
    done = run(
        "train.py", tmp_path, "experiment=cd_digits", "trainer=cpu", "net.width=32", "net.blocks=1", *given
    )
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert done.status == 1
    assert line.startswith(
        "error: teacher.path is a consistency function, and a denoiser is needed here: use"
    )
    assert "start=teacher" in line


def test_a_role_that_is_not_that_of_the_config_is_refused(places, tmp_path):
    content = torch.load(places["run"] / "checkpoints" / "last.ckpt", weights_only=True)
    for role in ("denoiser", "oracle", 3):
        save_edited({**content, "role": role}, tmp_path / "x.ckpt")
        with pytest.raises(
            UserError, match=rf"role={role!r} is not that of its config, consistency function"
        ):
            read(tmp_path / "x.ckpt")
