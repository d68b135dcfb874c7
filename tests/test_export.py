"""Exports make the model's own samples, or nothing is left of them."""

import copy
import json
import shutil
import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import onnxruntime
import pytest
import torch

from consistency.build import make
from consistency.codec.pixels import Pixels
from consistency.codec.points import Points
from consistency.errors import UserError
from consistency.export import tensorrt
from consistency.export.model import KnownNoise, Outgoing, Written, frozen
from consistency.export.onnx import Full, Half, Int8, Onnx, run_onnx, save
from consistency.export.parts import NETWORK, programs
from consistency.export.programs import coefficients
from consistency.export.tensorrt import TensorRT
from consistency.export.torch_program import AOTInductor, TorchExport
from consistency.model.maps import Consistency
from consistency.model.precond import Boundary
from consistency.nets.adm import ADM
from consistency.nets.ddpm import DDPMUNet
from consistency.nets.layers import FourierEmbedding
from consistency.nets.mlp import MLP
from consistency.nets.modulation import DoublyNormalised
from consistency.nets.unet import UNet
from consistency.sampling.levels import karras_sigmas
from consistency.schema.check import check_config
from consistency.tasks.make.export import Export
from consistency.tasks.timing import time_side_by_side
from tests.conftest import ROOT
from tests.lists import multisteps
from tests.sessions import checkpoint, composed, outgoing, session

FORMATS = sorted(path.stem for path in (ROOT / "configs" / "export").glob("*.yaml"))
SMALL = partial(MLP, width=16, blocks=1)
FAST = {"batches": (1,), "patience": 0.01}
PYRAMID = {"taps": (1, 3, 3, 1), "input_pyramid": True}
NETS = {  # (C, H, W), classes and network
    "attention": ((1, 8, 8), 0, partial(UNet, channels=8, multipliers=(1, 2), blocks=1, attention=(4,))),
    "patch": ((1, 8, 8), 0, partial(UNet, channels=8, multipliers=(1,), blocks=1, attention=(4,), patch=2)),
    "ncsnpp": (
        (3, 8, 8),
        0,
        partial(UNet, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), **PYRAMID),
    ),
    "scm": (
        (3, 8, 8),
        3,
        partial(UNet, channels=8, multipliers=(1, 2), modulation=DoublyNormalised(), blocks=1),
    ),
    "adm": (
        (3, 8, 8),
        3,
        partial(ADM, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), head_channels=4),
    ),
    "ddpm": (
        (3, 8, 8),
        0,
        partial(DDPMUNet, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), groups=4),
    ),
}


def model(shape=(1, 4, 4), classes=0, net=SMALL, sigmas=(80.0, 0.8)):
    """An untrained one, whose output is not nearly zero."""
    torch.manual_seed(0)
    made = net(shape=shape, classes=classes)
    for p in made.parameters():
        p.data += 0.1 * torch.randn_like(p)
    f = Consistency(made, Boundary())
    frozen(f)
    codec = Pixels() if len(shape) == 3 else Points()
    return outgoing(f, shape, classes, multisteps({"few": sigmas}), codec, experiment="none", step=7)


def error(made, run, name="few", batch=5):
    """Greatest difference of what was read back, on noise of its own."""
    program = programs(made)[name]
    inputs = program.inputs(batch, 9)
    with torch.no_grad():
        return (run(*inputs) - program.module(*inputs)).abs().max().item()


@dataclass(frozen=True)
class Broken:
    """Every sample is off by so much."""

    by: float = 0.01
    tolerance: float | None = 1e-3

    def __call__(self, model, folder):
        (folder / "file").write_text("something")
        runs = {name: self.off(sampler) for name, sampler in model.programs().items()}
        return Written([folder / "file"], runs, self.tolerance)

    def off(self, sampler):
        return lambda *inputs: sampler(*inputs) + self.by


@dataclass(frozen=True)
class Mirror:
    """The model's programs themselves, which are kept."""

    seen: list = field(default_factory=list)

    def __call__(self, model, folder):
        self.seen.append(model)
        (folder / "file").write_text("something")
        runs = model.programs()
        network = programs(model)[NETWORK].module
        return Written([folder / "file"], runs, 1e-5, network)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A folder of ONNX, and what the task said of it."""
    folder = tmp_path_factory.mktemp("exported")
    about = session(folder / "out", checkpoint(folder, "net.width=128"))
    outcome = Export({"onnx": Onnx(), "left out": None}, samplers=["2step"], **FAST)(about)
    t = about.trained
    return SimpleNamespace(t=t, folder=about.directory / "onnx", outcome=outcome, sampler=t.samplers["2step"])


class TestTask:
    def test_each_part_of_an_export_has_its_own_progress(self, tmp_path, capsys):
        """How long one part takes says nothing of the next."""
        outcome = Export({"mirror": Mirror()}, **FAST)(session(tmp_path / "out", checkpoint(tmp_path)))
        parts = [line.rpartition(": ") for line in capsys.readouterr().err.splitlines()]
        assert [(name or last, last) for name, _, last in parts] == [
            ("exporting mirror", "writing"),
            ("exporting mirror: verifying", "3/3, 0:00:00 left"),
            (
                "exporting mirror: timing",
                f"{3 * len(FAST['batches'])}/{3 * len(FAST['batches'])}, 0:00:00 left",
            ),
        ]
        assert max(map(len, outcome.text().splitlines())) <= 110

    def test_files_make_the_samples_of_the_run(self, exported):
        z = torch.randn(5, 2, *exported.t.data.shape, generator=torch.Generator().manual_seed(3))
        run = onnxruntime.InferenceSession(exported.folder / "2step.onnx")
        truth = exported.sampler(exported.t.f, z[:, 0], draws=KnownNoise(z[:, 1:]))
        made = torch.from_numpy(run.run(None, {"z": z.numpy()})[0])
        torch.testing.assert_close(made, truth, atol=1e-5, rtol=0)
        assert truth.std() > 0.1

    def test_errors_sizes_and_times_are_told(self, exported):
        metrics, parts = exported.outcome.metrics, ("2step", "network")
        kinds = ("error", "rms", "latency_1", "eager_1")
        assert metrics.keys() == {f"{kind}/onnx/{part}" for kind in kinds for part in parts}
        assert all(0 < metrics[f"rms/onnx/{part}"] < metrics[f"error/onnx/{part}"] < 1e-5 for part in parts)
        table = exported.outcome.tables[0]
        assert [row[:2] for row in table.rows] == [["onnx", part] for part in parts]
        size = (exported.folder / "2step.onnx").stat().st_size
        assert table.rows[0][2] == f"{size / 1e6:.2f}"
        assert (exported.folder.parent / "export.md").read_text() == table.markdown() + "\n"

    def test_the_folder_says_how_it_is_used(self, exported, monkeypatch):
        monkeypatch.chdir(exported.folder)
        (_, lines, _) = (exported.folder / "README.md").read_text().split("```")
        known = {}
        exec(lines.removeprefix("python\n"), known)
        assert (known["u"].shape, known["u"].dtype) == ((16, 1, 8, 8), "uint8")
        t = exported.t
        assert torch.equal(t.data.codec.decode(torch.from_numpy(known["x"])), torch.from_numpy(known["u"]))

    def test_the_folder_says_what_it_is(self, exported):
        said, t = json.loads((exported.folder / "model.json").read_text()), exported.t
        assert (said["shape"], said["classes"], said["sigma_min"], said["step"]) == ([1, 8, 8], 0, 0.002, 7)
        assert said["weights_sha256"] == t.provenance.weights_sha256
        assert said["pixels"] == {"scale": t.data.scale, "offset": t.data.offset}
        few = said["programs"]["2step"]
        assert few["inputs"] == {"z": ["batch", 2, 1, 8, 8]}
        assert few["sigmas"] == list(exported.sampler.sigmas)
        assert said["programs"]["network"]["inputs"] == {"x": ["batch", 1, 8, 8], "noise": ["batch"]}
        first = said["coefficients"][0]
        assert first == coefficients(t.f.precond, [80.0])[0]
        assert first["sigma"] == 80.0
        kept = (
            onnxruntime.InferenceSession(exported.folder / "2step.onnx").get_modelmeta().custom_metadata_map
        )
        assert json.loads(kept["sigmas"]) == few["sigmas"]
        assert (kept["weights_sha256"], float(kept["offset"])) == (t.provenance.weights_sha256, t.data.offset)

    def test_coefficients_and_the_network_make_the_denoiser(self, exported):
        t = exported.t
        c = json.loads((exported.folder / "model.json").read_text())["coefficients"][7]
        x, noise = torch.randn(3, *t.data.shape), torch.full((3,), c["noise"])
        network = onnxruntime.InferenceSession(exported.folder / "network.onnx")
        F, *_ = network.run(None, {"x": (c["inp"] * x).numpy(), "noise": noise.numpy()})
        with torch.no_grad():
            truth = t.f(x, torch.full((3,), c["sigma"], dtype=torch.float64))
        torch.testing.assert_close(c["skip"] * x + c["out"] * torch.from_numpy(F), truth, atol=1e-5, rtol=0)

    @pytest.mark.parametrize("which", ["ckpt", "with_classes"])
    def test_a_program_is_the_sampler_of_the_run(self, which, request, tmp_path):
        outcome = Export({"mirror": Mirror()}, **FAST)(session(tmp_path, request.getfixturevalue(which)))
        assert [outcome.metrics[f"error/mirror/{name}"] < 2e-6 for name in ("1step", "2step", "network")] == [
            True
        ] * 3

    def test_only_what_is_asked_for_is_exported(self, ckpt, tmp_path):
        mirror = Mirror()
        outcome = Export({"mirror": mirror}, samplers=["2step"], **FAST)(session(tmp_path, ckpt))
        assert {name.split("/")[2] for name in outcome.metrics} == {"2step", "network"}
        assert [*mirror.seen[0].sigmas] == ["2step"]
        with pytest.raises(UserError, match=r"task\.samplers=3step is not a sampler"):
            Export({"mirror": mirror}, samplers=["3step"])(session(tmp_path, ckpt))

    def test_formats_get_a_frozen_copy(self, ckpt, tmp_path):
        mirror, about = Mirror(), session(tmp_path, ckpt)
        Export({"mirror": mirror}, **FAST)(about)
        (given,) = mirror.seen
        assert given.f is not about.trained.f
        assert not any(p.requires_grad or p.dtype != torch.float32 for p in given.f.parameters())
        assert given.about["config"] == about.trained.provenance.config
        json.dumps(given.about)

    def test_a_teacher_is_exported_as_its_network(self, tmp_path):
        teacher, mirror = (
            checkpoint(tmp_path, "method=edm", "data=ring", "budget=points", "net.width=32", "net.blocks=1"),
            Mirror(),
        )
        outcome = Export({"mirror": mirror}, **FAST)(session(tmp_path / "out", teacher))
        assert {name.split("/")[2] for name in outcome.metrics} == {"network"}
        assert (mirror.seen[0].sigmas, mirror.seen[0].codec) == ({}, Points())
        assert "```" not in (tmp_path / "out" / "mirror" / "README.md").read_text()

    def test_a_teachers_solvers_are_exported_where_they_are_named(self, tmp_path):
        words = [
            "method=edm",
            "data=ring",
            "budget=points",
            "net.width=16",
            "net.blocks=1",
            "samplers.heun35.sigmas.steps=4",
        ]
        teacher = checkpoint(tmp_path, *words)
        about = session(tmp_path / "out", teacher)
        Export({"onnx": Onnx()}, samplers=["heun35", "ddim18"], **FAST)(about)
        read = onnxruntime.InferenceSession(tmp_path / "out" / "onnx" / "heun35.onnx")
        z = torch.randn(5, 1, 2)
        (made,) = read.run(None, {"z": z.numpy()})
        truth = about.trained.samplers["heun35"](about.trained.f, z[:, 0])
        assert (torch.from_numpy(made) - truth).abs().max() < 1e-4
        said = json.loads((tmp_path / "out" / "onnx" / "model.json").read_text())["programs"]
        assert said.keys() == {"heun35", "ddim18", "network"}
        assert said["heun35"]["sigmas"] == pytest.approx(karras_sigmas(4))


class TestRefusals:
    @pytest.mark.parametrize("by", [0.01, float("nan"), torch.zeros(2, 1, 1, 1, 1)])
    def test_other_numbers_are_refused_and_nothing_is_left(self, ckpt, tmp_path, by):
        about = session(tmp_path, ckpt)
        with pytest.raises(UserError, match=r"export=bad: 1step differs .* nothing was kept"):
            Export({"bad": Broken(by)}, **FAST)(about)
        assert list(tmp_path.iterdir()) == []

    def test_what_is_only_measured_must_be_a_number(self, ckpt, tmp_path):
        outcome = Export({"bad": Broken(0.01, None)}, **FAST)(session(tmp_path, ckpt))
        assert outcome.metrics["error/bad/1step"] == pytest.approx(0.01, rel=1e-3)
        assert outcome.metrics["rms/bad/1step"] == pytest.approx(0.01, rel=1e-3)
        for by in ("nan", "inf"):  # as where half precision overflows
            with pytest.raises(
                UserError, match=f"differs from the model's own by {by}, and any finite number"
            ):
                Export({"bad": Broken(float(by), None)}, **FAST)(session(tmp_path, ckpt))

    def test_an_export_stands_until_a_better_one_is_verified(self, ckpt, tmp_path):
        Export({"one": Mirror()}, **FAST)(session(tmp_path, ckpt))
        (tmp_path / "one" / "mine").write_text("kept for now")
        with pytest.raises(UserError):
            Export({"one": Broken()}, **FAST)(session(tmp_path, ckpt))
        assert (tmp_path / "one" / "mine").exists()
        Export({"one": Mirror()}, **FAST)(session(tmp_path, ckpt))
        assert {path.name for path in (tmp_path / "one").iterdir()} == {"file", "model.json", "README.md"}
        assert {path.name for path in tmp_path.iterdir()} == {"one", "export.md"}

    @pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
    def test_a_missing_library_is_named(self, library, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UserError, match=rf"{library} is not installed: pip install -e '\.\[export\]'"):
            Onnx()(model(), tmp_path)

    def test_without_a_compiler_nothing_is_compiled(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(UserError, match=r"install a C\+\+ compiler, or choose export=torch_export"):
            AOTInductor()(model(), tmp_path)

    def test_no_batch_is_refused(self, ckpt, tmp_path):
        with pytest.raises(UserError, match=r"task\.batches\[1\]=0 must be at least 1"):
            Export({"mirror": Mirror()}, batches=(1, 0))(session(tmp_path, ckpt))


class TestFormats:
    @pytest.mark.parametrize("name", FORMATS)
    def test_every_format_composes(self, name, tmp_path):
        config = composed("eval", "task=export", f"export={name}", f"run_dir={tmp_path}")
        check_config(config, "eval")
        assert [*make(config.task).formats] == [name]

    def test_several_formats_are_chosen_at_once(self):
        config = composed("eval", "task=export", "export=[onnx_int8,torch_export]")
        assert make(config.task).formats == {"onnx_int8": Onnx(Int8()), "torch_export": TorchExport()}

    def test_variants_are_smaller_and_their_error_is_known(self, exported, tmp_path):
        made = Outgoing.of(exported.t, {"few": exported.sampler})
        full, half, int8 = exported.folder / "2step.onnx", tmp_path / "half.onnx", tmp_path / "int8.onnx"
        save(programs(Half().model(made))["few"], half, {})
        Int8().finish(Path(shutil.copy(full, int8)))
        errors = [error(made, run_onnx(path)) for path in (full, half, int8)]
        assert errors[0] < 1e-5 < errors[1] < 0.01 < errors[2] < 0.3
        sizes = [path.stat().st_size for path in (full, half, int8)]
        assert sizes[1] < 0.6 * sizes[0]
        assert sizes[2] < 0.4 * sizes[0]
        assert [kind.tolerance for kind in (Full(), Half(), Int8())] == [1e-4, None, None]
        kept = onnxruntime.InferenceSession(int8).get_modelmeta().custom_metadata_map
        assert json.loads(kept["sigmas"]) == list(made.sigmas["few"])
        assert b"programs.py" not in full.read_bytes()  # nothing of where it was made

    def test_a_conditional_image_network_with_all_parts(self, tmp_path):
        parts = {"embedding": FourierEmbedding(16, 0.02), "patch": 2, **PYRAMID}
        net = partial(UNet, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), **parts)
        made = model((3, 16, 16), 3, net, sigmas=(80.0,))
        save(programs(made)["few"], tmp_path / "few.onnx", {})
        run = run_onnx(tmp_path / "few.onnx")
        assert max(error(made, run, batch=batch) for batch in (1, 2, 5)) < 1e-4

    @pytest.mark.slow
    @pytest.mark.parametrize("name", NETS)
    @pytest.mark.parametrize("form", [Onnx(), TorchExport()], ids=["onnx", "torch"])
    def test_every_network(self, name, form, tmp_path):
        made = model(*NETS[name], sigmas=(80.0, 0.8))
        self.check(made, form(made, tmp_path))

    def check(self, made, out):
        assert out.tolerance < 1e-3
        for batch in (1, 2, 5):
            assert error(made, out.runs["few"], batch=batch) < out.tolerance
            assert error(made, out.network, NETWORK, batch) < out.tolerance
        z = programs(made)["few"].inputs(5, 9)
        with torch.no_grad():
            assert out.runs["few"](*z).std() > 0.1

    def test_torch_export(self, tmp_path):
        made = model(classes=3)
        out = TorchExport()(made, tmp_path)
        self.check(made, out)
        known = {}
        exec(out.how.replace("few.pt2", str(tmp_path / "few.pt2")), known)
        assert known["x"].shape == (16, 1, 4, 4)

    @pytest.mark.slow
    def test_aot_inductor(self, tmp_path):
        made = model(classes=3)
        self.check(made, AOTInductor()(made, tmp_path))

    @pytest.mark.slow
    def test_the_network_of_the_paper(self, tmp_path):
        config = composed("train", "experiment=ict_cifar10")
        made = model((3, 32, 32), 0, partial(make, config.net), sigmas=(80.0,))
        assert sum(p.numel() for p in made.f.parameters()) == 56_395_523
        out = Onnx()(made, tmp_path)
        assert error(made, out.runs["few"], batch=3) < 1e-4


class TestTiming:
    def test_calls_take_turns(self):
        order = []
        calls = [partial(order.append, name) for name in "ab"]
        first, second = time_side_by_side(calls, torch.device("cpu"), 3, 60.0)
        assert "".join(order) == "ab" * 4  # one to warm up
        assert first > 0 < second

    def test_time_is_limited(self):
        order = []
        time_side_by_side([partial(order.append, 0)], torch.device("cpu"), 1000, 0.0)
        assert len(order) == 2


class Recorder:
    """Stands for the TensorRT library: what it is asked is kept."""

    def __init__(self, readable=True):
        self.readable, self.shapes, self.cleared = readable, {}, []
        self.Logger = SimpleNamespace(ERROR=0, __call__=None)
        self.Logger = type("Logger", (), {"ERROR": 0, "__init__": lambda self, level: None})
        self.BuilderFlag = SimpleNamespace(TF32="TF32")

    def Builder(self, logger):
        profile = SimpleNamespace(set_shape=lambda name, *shapes: self.shapes.update({name: shapes}))
        config = SimpleNamespace(add_optimization_profile=lambda p: None, clear_flag=self.cleared.append)
        return SimpleNamespace(
            create_network=lambda flags: object(),
            create_builder_config=lambda: config,
            create_optimization_profile=lambda: profile,
            build_serialized_network=lambda network, config: b"plan",
        )

    def OnnxParser(self, network, logger):
        return SimpleNamespace(
            parse_from_file=lambda path: self.readable, get_error=lambda i: "no such operator"
        )


class TestTensorRT:
    def test_without_library_or_gpu(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "tensorrt", None)
        with pytest.raises(UserError, match=r"tensorrt is not installed: pip install -e '\.\[tensorrt\]'"):
            TensorRT()(model(), tmp_path)
        monkeypatch.setitem(sys.modules, "tensorrt", Recorder())
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="export=tensorrt builds for the GPU at hand, and there is none"):
            TensorRT()(model(), tmp_path)
        with pytest.raises(UserError, match=r"task\.formats\.tensorrt\.largest=6 must be at least 7"):
            TensorRT(largest=6)(model(), tmp_path)

    def test_an_engine_takes_batches_from_1_to_the_largest(self, tmp_path):
        made, trt = model(classes=3), Recorder()
        shapes = TensorRT(largest=32, usual=4).profile(programs(made)["few"])
        assert shapes["label"] == [(1,), (4,), (32,)]
        assert tensorrt.build_engine(trt, tmp_path / "few.onnx", shapes, tf32=False) == b"plan"
        assert trt.shapes["z"] == ((1, 2, 1, 4, 4), (4, 2, 1, 4, 4), (32, 2, 1, 4, 4))
        assert trt.cleared == ["TF32"]
        with pytest.raises(UserError, match=r"TensorRT cannot read few\.onnx: no such operator"):
            tensorrt.build_engine(Recorder(readable=False), tmp_path / "few.onnx", shapes, tf32=True)


def test_labels_change_samples():
    made = model(classes=3)
    sampler = programs(made)["few"].module
    z, label = made.inputs(sampler, 4)
    assert label.tolist() == [0, 1, 2, 0]
    assert (sampler(z, label) - sampler(z, label.flip(0))).abs().max() > 0.01


def test_half_precision_leaves_the_model_alone():
    made = model()
    before = copy.deepcopy(made.f.state_dict())
    half = Half().model(made)
    assert all(torch.equal(value, before[name]) for name, value in made.f.state_dict().items())
    assert next(half.f.parameters()).dtype == torch.float16
