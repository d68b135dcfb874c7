"""What a flow map is used for after its training: samples, edits, exports, the page."""

import json
from dataclasses import replace
from functools import partial

import onnxruntime
import pytest
import torch
from hydra import initialize_config_dir

import consistency as cm
from consistency.codec.pixels import Pixels
from consistency.edits import Denoise, Restore, Stroke, Vary
from consistency.export.model import frozen
from consistency.export.onnx import Onnx
from consistency.export.torch_program import TorchExport
from consistency.export.weights import Safetensors
from consistency.model.condition import Condition
from consistency.model.coordinates import DDPM, VP, Linear, Nearest, Trigonometric
from consistency.model.maps import FlowMap
from consistency.model.precond import EDM, VE, Boundary, Epsilon, Jump, Velocity
from consistency.nets.mlp import MLP
from consistency.sampling.editing import walk_noise
from consistency.sampling.families import Family, families_of
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.ode import Heun
from consistency.sampling.operators import BoxSuperResolution
from consistency.sampling.samplers import Jumps, MultiStep
from consistency.tasks.make.export import Export
from consistency.tasks.make.invert import Invert
from consistency.tasks.make.sample import Sample
from consistency.tasks.measure.gap import Gap, measure_gaps, run_probe
from consistency.tasks.measure.ladder import Ladder
from consistency.tasks.measure.ladder_lists import Search, series_name
from consistency.tasks.show.report import Report
from tests.conftest import ROOT
from tests.sessions import checkpoint, outgoing, session

CHAIN = DDPM.linear(40)
PRECONDS = {
    "edm": EDM(),
    "boundary": Boundary(),
    "ve": VE(),
    "linear": Velocity(Linear()),
    "trigonometric": Velocity(Trigonometric()),
    "vp": Epsilon(VP()),
    "chain": Epsilon(CHAIN, 0.05),
    "nearest": Velocity(Nearest(CHAIN), 0.05),
    "jump": Jump(Velocity(Linear())),
}


def flow_map(shape=(3, 4, 4), classes=0, precond=None):
    """One that nobody trained, whose output depends on both levels."""
    torch.manual_seed(0)
    net = MLP(shape, classes, width=16, blocks=1, times=2)
    for p in net.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return frozen(FlowMap(net, precond or EDM(), diagonal=True))


def model(shape=(3, 4, 4), classes=0, precond=None, samplers=None):
    few = {"2jump": Jumps((80.0, 0.8)), "2step": MultiStep((80.0, 0.8), 0.0)}
    f, about = flow_map(shape, classes, precond), {"experiment": "none", "step": 7}
    return outgoing(f, shape, classes, few if samplers is None else samplers, Pixels(), **about)


def levels(batch):
    """t up to 80, and s from 0 to t, both among them."""
    generator = torch.Generator().manual_seed(3)
    t = 0.02 * 4000 ** torch.rand(batch, generator=generator)
    s = t * torch.rand(batch, generator=generator)
    s[0], s[1] = 0.0, t[1]
    return t, s


@pytest.mark.parametrize("name", PRECONDS)
def test_onnx_jumps_from_any_level_to_any_lower_one(name, tmp_path):
    made = model(classes=3, precond=PRECONDS[name])
    Onnx()(made, tmp_path)
    t, s = levels(9)
    x = (0.25 + t**2).sqrt()[:, None, None, None] * torch.randn(9, 3, 4, 4)
    label = torch.arange(9) % 3
    run = onnxruntime.InferenceSession(tmp_path / "jump.onnx", providers=["CPUExecutionProvider"])
    given = {"x": x, "t": t, "s": s, "label": label}
    assert [each.name for each in run.get_inputs()] == list(given)
    found = torch.from_numpy(run.run(["X"], {key: value.numpy() for key, value in given.items()})[0])
    truth = made.f.jump(x, t, s, Condition(label))
    size = s.clamp(min=1.0)[:, None, None, None]
    assert ((found - truth) / size).abs().max() < 1e-5
    assert torch.equal(found[1], x[1])  # s = t
    torch.testing.assert_close(
        found[:1], made.f.at_zero(x[:1], t[:1], Condition(label[:1])), atol=1e-5, rtol=0
    )


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory):
    """A run of digits, as it would leave a map that nobody trained."""
    words = ["method=meanflow", "data=digits", "budget=minute", "net=mlp"]
    return checkpoint(tmp_path_factory.mktemp("maps"), *words)


def test_a_safetensors_file_is_the_map(ckpt, tmp_path):
    asked = session(tmp_path, ckpt)
    outcome = Export({"safetensors": Safetensors()}, batches=(1,), patience=0.01)(asked)
    assert {v for k, v in outcome.metrics.items() if k.startswith("error/")} == {0.0}
    one, two = cm.load(ckpt), cm.load(tmp_path / "safetensors" / "model.safetensors")
    assert one.role == two.role == "flow map"
    assert one.samplers == two.samplers
    assert (one.f.has_diagonal, one.f.sigma_data) == (two.f.has_diagonal, two.f.sigma_data)
    assert torch.equal(one.sample(3), two.sample(3))


@pytest.mark.parametrize(
    "change",
    [Vary(0.5), Stroke(1.0), Restore(partial(BoxSuperResolution, factor=2)), Denoise(0.3, add=True)],
    ids=repr,
)
def test_edits_are_those_of_the_consistency_function_in_it(change, ckpt):
    made = cm.load(ckpt)
    once = replace(made, f=made.f.at_zero)
    images = made.sample(3)
    after = made.edit(images, change, levels=5, seed=4)
    assert torch.equal(after, once.edit(images, change, levels=5, seed=4))
    assert not torch.equal(after, images)


def test_walks_are_those_of_the_consistency_function_in_it(ckpt):
    made = cm.load(ckpt)
    stops = [torch.randn(2, 1, 8, 8) for _ in range(2)]
    frames = walk_noise(made.f, stops, 3, 80.0)
    assert len(frames) == 4
    assert torch.equal(frames[-1], made(80.0 * stops[-1], 80.0))


def test_steps_are_jumps_and_may_be_as_many_as_one_likes(ckpt):
    made = cm.load(ckpt)
    assert made.sampler() is made.samplers["1jump"]
    assert [made.sampler(n) for n in (1, 2, 4)] == [made.samplers[f"{n}jump"] for n in (1, 2, 4)]
    eight = made.sampler(8)
    assert eight == Jumps(karras_sigmas(9)[:-1])
    assert torch.equal(made.sample(3, steps=8), made.sample(3, sampler=eight))
    few = replace(made, samplers={"2step": made.samplers["2step"]})
    assert few.sampler() == made.samplers["2step"]
    assert isinstance(few.sampler(2), Jumps)
    with pytest.raises(cm.UserError, match="steps"):
        made.sample(3, steps=0)


def test_a_ladder_shows_jumps_and_fresh_noise(ckpt, tmp_path):
    few = Search(levels=12, budget=3, scan=2, count=40)
    ladder = Ladder(calls=(1, 2, 3), count=50, batch=25, search=few, largest=4, patience=0.01)
    asked = session(tmp_path, ckpt)
    outcome = ladder(asked)
    own = ["1jump", "2jump-found", "3jump"]
    mixed = [f"{n}jump (gamma)" for n in (1, 2, 3)]
    fresh = ["1step", "2step-found", "3step"]
    assert [row[0] for row in outcome.tables[0].rows] == [*own, *mixed, *fresh, "floor"]
    same = {outcome.metrics[f"FD(digits)/{name}"] for name in ("1jump", "1jump (gamma)", "1step")}
    assert max(same) - min(same) < 1e-3
    again = session(tmp_path / "again", ckpt, overrides=["found=true"]).trained
    assert {*mixed, "1jump", "2jump", "3jump", "1step", "2step", "3step"} == again.found.keys()
    assert again.found["3jump (gamma)"].gamma == 0.5
    families = families_of(asked.trained.own, 0.002)
    assert [series_name(each, "flow map") for each in families] == ["jumps", "jumps (gamma)", "fresh noise"]
    assert series_name(Family(Heun([1.0])), "flow map") == "diagonal, heun"


def test_gaps_are_those_of_its_consistency_function_on_any_flow(ckpt, tmp_path):
    """The flow of its own denoiser is one of them."""
    few = Gap(count=3, levels=3)
    asked = session(tmp_path, ckpt)
    own = replace(few, diagonal=True)(asked).metrics
    data = few(asked).metrics
    names = [f"gap/{name}" for name in ("self", "trajectory", "reconstruction", "boundary")]
    assert {*own} == {f"{name} (count=3, levels=3, source=diagonal)" for name in names}
    assert {*data} == {f"{name} (count=3, levels=3)" for name in names}
    gaps = json.loads((tmp_path / "gap.json").read_text())
    assert gaps["source"] == "data"
    t = asked.trained
    found, _ = measure_gaps(asked, run_probe(t), diagonal=True)
    asked.trained = replace(t, f=t.f.at_zero)
    with pytest.raises(cm.UserError, match=r"task\.diagonal=true is for flow maps"):
        measure_gaps(asked, run_probe(t), diagonal=True)
    asked.trained = replace(t, f=FlowMap(t.f.net, t.f.precond, diagonal=False))
    with pytest.raises(cm.UserError, match=r"task\.diagonal=true: this flow map was trained without s = t"):
        measure_gaps(asked, run_probe(t), diagonal=True)
    assert found.source == "diagonal"


def test_a_report_shows_its_gaps(ckpt, tmp_path):
    small = Ladder(calls=(2,), count=50, batch=25, search=None, largest=4, patience=0.01)
    report = Report(Sample(count=4, nearest=0), None, small, Gap(count=3, levels=3))
    asked = session(tmp_path, ckpt)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        outcome = report(asked)
    names = {name.removesuffix("-spaced") for name in outcome.metrics}
    assert {"FD(digits)/2jump", "FD(digits)/2jump (gamma)", "FD(digits)/2step"} <= names
    assert "gap/trajectory (count=3, levels=3)" in names
    page = (tmp_path / "report.html").read_text()
    assert "A flow map: step 7" in page


def test_a_ladder_has_the_teacher_of_a_map_beside_it(tmp_path):
    words = ["method=emd", "data=ring", "budget=points", "data.samples=64", "teacher=exact"]
    student = checkpoint(tmp_path, *words)
    small = Ladder(calls=(2,), count=50, batch=25, search=None, largest=4, patience=0.01)
    assert "SW2/teacher heun35" in small(session(tmp_path / "out", student)).metrics


def test_inverse_problems_have_a_row_for_each_number_of_calls(ckpt, tmp_path):
    problem = Invert(
        partial(BoxSuperResolution, factor=2), {}, count=4, calls=(2, 4), mean_of=2, mean_calls=2
    )
    assert {*problem(session(tmp_path, ckpt)).metrics} == {
        "PSNR/2step",
        "PSNR/4step",
        "PSNR/2step, mean of 2",
    }


def test_torch_export_jumps_too(tmp_path):
    made = model()
    out = TorchExport()(made, tmp_path)
    t, s = levels(4)
    x = torch.randn(4, 3, 4, 4)
    assert {*out.runs} == {"2jump", "2step", "jump"}
    torch.testing.assert_close(out.runs["jump"](x, t, s), made.f.jump(x, t, s), atol=1e-6, rtol=0)
