"""Weights in one file without code: taken for a checkpoint, and for nothing that they are not."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from consistency.errors import UserError
from consistency.export.model import Outgoing
from consistency.export.programs import coefficients
from consistency.export.weights import Safetensors
from consistency.model.maps import Consistency
from consistency.sampling.samplers import MultiStep, OneStep
from consistency.tasks.schedule_file import SigmaList
from consistency.tasks.schedules import keep_lists
from consistency.teachers.checkpoint import checkpoint as teacher
from consistency.teachers.checkpoint import read_checkpoint, read_trained
from tests.conftest import ROOT
from tests.lists import multisteps
from tests.sessions import checkpoint, session


def outgoing(t, config=None, **sigmas):
    samplers = multisteps(sigmas or {"1step": [80.0], "2step": [80.0, 0.821]})
    made = Outgoing.of(t, samplers)
    return replace(made, provenance=replace(t.provenance, config=config or t.provenance.config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return session(folder / "eval", checkpoint(folder)).trained


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    written = Safetensors()(outgoing(trained), tmp_path_factory.mktemp("out"))
    return written.files[0]


class Given:
    """The fresh noise of a program's input."""

    def __init__(self, z):
        self.rest = list(z.unbind(1))[1:]

    def normal(self, x):
        return self.rest.pop(0)


def test_a_program_is_the_sampler_with_its_noise_as_input(trained):
    sigmas = [80.0, 0.8, 0.001]  # the last is raised to ε
    z = torch.randn(5, 3, *trained.data.shape)
    program = MultiStep(sigmas).program(trained.f)
    assert torch.equal(program(z), MultiStep(sigmas)(trained.f, z[:, 0], draws=Given(z)))


def test_coefficients_make_the_denoiser_from_its_network(trained):
    x = torch.randn(4, *trained.data.shape)
    for row in coefficients(trained.f.precond, [80.0, 0.5]):
        sigma = torch.full((4,), row["sigma"])
        F = trained.f.net(row["inp"] * x, torch.full((4,), row["noise"]))
        torch.testing.assert_close(row["skip"] * x + row["out"] * F, trained.f(x, sigma))


def test_a_file_takes_the_place_of_its_checkpoint(trained, exported, tmp_path):
    again = session(tmp_path, exported).trained
    assert again.provenance.weights == trained.provenance.weights
    assert again.provenance.weights_sha256 == trained.provenance.weights_sha256
    assert again.provenance.experiment == trained.provenance.experiment
    assert again.provenance.step == trained.provenance.step
    assert again.provenance.config == trained.provenance.config
    x, sigma = torch.randn(3, *trained.data.shape), torch.tensor([0.01, 1.0, 80.0])
    assert torch.equal(again.f(x, sigma), trained.f(x, sigma))
    assert torch.equal(teacher(exported)(x, sigma), trained.f(x, sigma))


def test_paths_below_the_working_directory_become_relative(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = {"teacher": {"path": str(tmp_path / "runs" / "x")}, "more": ["elsewhere", 1]}
    model = outgoing(trained, {**trained.provenance.config, **own})
    kept = read_trained(Safetensors()(model, tmp_path).files[0])["config"].to_plain()
    assert kept["teacher"] == {"path": "runs/x"}
    assert kept["more"] == ["elsewhere", 1]


def test_it_brings_the_sigmas_that_were_found(trained, tmp_path):
    found = {"1step": [80.0], "2step": [80.0, 1.25]}
    file = Safetensors()(outgoing(trained, **found), tmp_path).files[0]
    again = session(tmp_path / "eval", file).trained
    own, other = again.samplers["1step"], again.samplers["2step"]
    assert own == OneStep([80.0])  # its σ are the run's own
    assert other == MultiStep([80.0, 1.25])
    keep_lists(
        file, again.provenance.weights_sha256, {"2step": SigmaList([80.0, 1.5])}
    )  # a search after the export
    assert session(tmp_path / "eval", file).trained.samplers["2step"].sigmas == (80.0, 1.25)
    later = session(tmp_path / "eval", file, overrides=["found=true"]).trained.samplers
    assert later["2step"].sigmas == (80.0, 1.5)


def test_half_the_bytes_and_how_far_off(trained, exported, tmp_path):
    model = outgoing(trained)
    written = Safetensors("float16")(model, tmp_path)
    assert written.files[0].stat().st_size < 0.7 * exported.stat().st_size  # the config takes its share
    inputs = model.inputs(model.programs()["2step"], 8)
    off = (written.runs["2step"](*inputs) - model.programs()["2step"](*inputs)).abs().max()
    assert 0 < off < 0.05
    assert {t.dtype for t in load_file(written.files[0]).values()} == {torch.float16}
    with pytest.raises(UserError, match="float16"):
        Safetensors("fp16")


def test_a_model_is_opened_without_its_data(exported, tmp_path, monkeypatch):
    from consistency.lit.data.digits import Digits

    monkeypatch.setattr(Digits, "load", lambda self: pytest.fail("data were read"))
    t = session(tmp_path, exported).trained
    assert (t.data.shape, t.data.classes, t.data.codec.visible) == ((1, 8, 8), 0, True)


def test_data_that_are_not_what_the_checkpoint_says_are_refused(trained):
    from consistency.lit.data.digits import Digits

    data = Digits(batch_size=8)
    data.expect((1, 28, 28), 10)
    with pytest.raises(
        UserError, match="data are 1x8x8 with no classes, but the network is for 1x28x28 with 10"
    ):
        data.real()


def test_what_is_no_such_file_is_refused(exported, tmp_path):
    foreign, cut = tmp_path / "foreign.safetensors", tmp_path / "cut.safetensors"
    save_file({"w": torch.zeros(2)}, foreign)
    cut.write_bytes(exported.read_bytes()[:100])
    less = tmp_path / "less.safetensors"
    save_file({"w": torch.zeros(2)}, less, {"consistency": json.dumps({"config": {}})})
    for i, wrong in enumerate(({"sigmas": 3}, {"step": "x"}, {"config": {}})):
        path = tmp_path / f"wrong{i}.safetensors"
        about = {"config": {}, "experiment": None, "step": 1, "weights": "raw", "sigmas": {}}
        about["config"] = {name: {} for name in ("data", "denoiser", "metric", "module", "net", "sigma")}
        save_file({"w": torch.zeros(2)}, path, {"consistency": json.dumps({**about, **wrong})})
        with pytest.raises(UserError, match="what its weights mean"):
            read_trained(path)
    for path, words in (
        (foreign, "what its weights mean"),
        (less, "what its weights mean"),
        (cut, "damaged"),
    ):
        with pytest.raises(UserError, match=words):
            read_trained(path)
    with pytest.raises(UserError, match=r"no run can go on from them.*teacher\.path"):
        read_checkpoint(exported)
    with pytest.raises(UserError, match="weights=slow is not in the checkpoint, which has: raw"):
        session(tmp_path, exported, weights="slow").trained  # noqa: B018


@pytest.mark.parametrize(
    "target",
    ["consistency.teachers.exported.write_exported", "consistency.errors.nearest", "os.system"],
)
def test_a_file_that_would_call_a_function_is_refused(trained, tmp_path, target):
    """Of ours, too: some write files. The functions that configs/ names are the exception."""
    model = outgoing(
        trained, {**trained.provenance.config, "denoiser": {"_target_": target, "path": str(tmp_path / "x")}}
    )
    file = Safetensors()(model, tmp_path).files[0]
    for opened in (teacher, lambda path: session(tmp_path / "eval", path).trained):
        with pytest.raises(UserError, match=f"would call {target}"):
            opened(file)
    assert not (tmp_path / "x").exists()


def test_a_file_that_would_call_something_foreign_is_refused(trained, tmp_path):
    model = outgoing(
        trained, {**trained.provenance.config, "net": {"_target_": "os.system", "command": "true"}}
    )
    file = Safetensors()(model, tmp_path).files[0]
    with pytest.raises(UserError, match=r"would call os\.system"):
        session(tmp_path / "eval", file).trained  # noqa: B018


@pytest.mark.parametrize("name", ["digits", "garments", "moons"])
def test_weights_that_come_along_open_as_they_are(name, tmp_path):
    """Their configs name classes of the day they were made; callbacks and loggers are not built."""
    path = ROOT / "data" / "weights" / f"{name}.safetensors"
    trained = session(tmp_path / "eval", path).trained
    assert trained.samplers
    assert isinstance(teacher(path), Consistency)
