"""Networks of two times: finite and smooth in both, and at first the network of one time with its weights."""

import json
from functools import partial

import onnxruntime
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig

from consistency.codec.pixels import Pixels
from consistency.errors import UserError
from consistency.export.model import frozen
from consistency.export.onnx import Half, Onnx
from consistency.export.parts import programs
from consistency.lit.consistency import copy_weights
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Consistency, Denoiser, FlowMap, as_denoiser
from consistency.model.precond import EDM, Boundary
from consistency.model.second import ratio, second_time
from consistency.nets.adm import ADM
from consistency.nets.ddpm import DDPMUNet
from consistency.nets.layers import FourierEmbedding
from consistency.nets.mlp import MLP
from consistency.nets.modulation import DoublyNormalised
from consistency.nets.second import of_second_time, to_one_time
from consistency.nets.unet import UNet
from consistency.objectives.derivative import CentralDifferences, ForwardMode
from consistency.sampling.samplers import Jumps
from consistency.tasks.show.export_page import Deviation, model_facts, readme_text
from consistency.teach import find_teacher, teach
from consistency.teachers.diffusers import diffusers
from consistency.teachers.edm import edm
from consistency.teachers.openai import openai
from consistency.teachers.weights import load_into
from consistency.tensor import same_dropout
from tests.conftest import ROOT, run
from tests.reference import teachers as reference
from tests.sessions import outgoing
from tests.test_diffusers import folder as diffusers_folder
from tests.test_diffusers import tiny
from tests.test_teachers import ddpmpp, dhariwal, official_modules, unetmodel, write_edm  # noqa: F401

TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "classes": 3}


def ncsnpp(**options):
    embedding = FourierEmbedding(16, scale=0.2)
    pyramid = {"taps": (1, 3, 3, 1), "input_pyramid": True, "patch": 2}
    return UNet((3, 16, 16), embedding=embedding, **pyramid, **TINY, **options)


NETS = {
    "mlp": partial(MLP, (3, 4, 4), classes=3, width=16, blocks=2, fmax=4.0),
    "ddpmpp": partial(UNet, (3, 8, 8), **TINY, augment=9),
    "ddpmpp_scm": partial(UNet, (3, 8, 8), **TINY, modulation=DoublyNormalised()),
    "ncsnpp": ncsnpp,
    "ddpm": partial(DDPMUNet, (3, 8, 8), **TINY, groups=4),
    "adm": partial(ADM, (3, 8, 8), **TINY, head_channels=4, augment=9),
    "adm_added": partial(ADM, (3, 8, 8), **TINY, head_channels=4, scale_shift=False),
}
SIZES = {"mlp": 4, "ncsnpp": 16}
every_net = pytest.mark.parametrize("name", NETS)

T = torch.tensor([1e-8, 0.002, 0.5, 3.0, 80.0], dtype=torch.float64)
LABELS = Condition(torch.tensor([0, 1, 2, -1, 1]))


def made(name, seed=0, **options):
    torch.manual_seed(seed)
    return NETS[name](**options)


def alive(net):
    """`net` with every weight moved: zeros would hide what they multiply."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=generator).to(p))
    return net.eval()


def images(name, n=5, dtype=torch.float32):
    size = SIZES.get(name, 8)
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1)).to(dtype)


def flow_map(name, dtype=torch.float64, sigma_data=0.5, **options):
    return FlowMap(alive(made(name, times=2, **options)).to(dtype), EDM(), True, sigma_data)


# h


def test_h_is_0_at_the_end_1_at_the_start_and_a_ratio_of_angles_between():
    assert torch.equal(second_time(T, 0.0 * T, 0.5), torch.zeros(5, dtype=torch.float64))
    assert torch.equal(second_time(T, T, 0.5), torch.ones(5, dtype=torch.float64))
    assert second_time(80.0, 0.5, 0.5).item() == pytest.approx(0.5, abs=2e-3)  # and s/t is 0.006
    assert second_time(1e-8, 5e-9, 0.5).item() == pytest.approx(0.5)
    assert second_time(T, 0.0, 0.5).shape == (5,)
    assert second_time(3.0, 1.0, 0.5).dtype == second_time(T.float(), 1.0, 0.5).dtype == torch.float64
    assert torch.equal(second_time(T.float(), T.float(), 0.3), torch.ones(5, dtype=torch.float64))


@pytest.mark.parametrize("function", [ratio, partial(second_time, sigma_data=0.7)])
def test_its_derivatives_are_those_of_its_formula(function):
    t, s = T.clone().requires_grad_(), (0.3 * T).requires_grad_()
    assert torch.autograd.gradcheck(function, (t[1:], s[1:]), eps=1e-7, check_forward_ad=True)
    at_zero = torch.func.jvp(lambda s: function(T, s), (0 * T,), (torch.ones_like(T),))[1]
    assert (at_zero > 0).all()
    assert at_zero.isfinite().all()


# Networks


@every_net
def test_what_both_networks_have_begins_with_the_same_numbers(name):
    one, state = made(name).state_dict(), torch.random.get_rng_state()
    two = made(name, times=2).state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    more = two.keys() - one.keys()
    assert more == of_second_time(two) != set()
    assert [key for key in two if key not in more] == [*one]
    assert all(torch.equal(two[key], one[key]) for key in one)
    assert not any(two[key].any() for key in more)


@every_net
def test_with_the_weights_of_one_time_it_is_that_network_to_the_bit(name):
    one, two = alive(made(name)), alive(made(name, seed=1, times=2))
    load_into(two, one.state_dict(), None)
    x, noise = images(name), T.log().float() / 4
    for h in (torch.zeros(5), torch.ones(5), torch.linspace(0, 1, 5)):
        assert torch.equal(two(x, noise, LABELS, h), one(x, noise, LABELS))
        assert torch.equal(two(x, noise, NONE, h), one(x, noise))


@every_net
def test_gradients_reach_what_reads_the_second_time(name):
    net = alive(made(name))
    two = made(name, times=2)
    load_into(two, net.state_dict(), None)
    two(images(name), T.log().float() / 4, LABELS, torch.linspace(0, 1, 5)).square().sum().backward()
    names = of_second_time(dict(two.named_parameters()))
    assert names
    assert all(p.grad is not None and p.grad.any() for n, p in two.named_parameters() if n in names)


@every_net
def test_h_changes_the_output_once_it_has_weights(name):
    two, x, noise = alive(made(name, times=2)), images(name), T.log().float() / 4
    a, b = (two(x, noise, LABELS, torch.full((5,), h)) for h in (0.0, 0.2))
    assert (a - b).abs().max() > 1e-3


@every_net
def test_of_two_times_a_network_of_one_is_left(name):
    one, two = alive(made(name)), made(name, times=2)
    to_one_time(two)
    load_into(two, one.state_dict(), None)
    x, noise = images(name), T.log().float() / 4
    assert two.times == 1
    assert torch.equal(two.eval()(x, noise, LABELS), one(x, noise, LABELS))


@every_net
def test_in_half_precision_it_computes_too(name):
    two = alive(made(name, times=2)).bfloat16()
    y = two(images(name).bfloat16(), T.log().float() / 4, LABELS, torch.linspace(0, 1, 5))
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


# Maps


@every_net
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.5, 1.0])
def test_it_is_finite_with_its_derivatives_at_both_ends(name, dtype, share):
    f, x, s = flow_map(name, dtype), images(name, dtype=dtype), share * T
    for rates in ((T, 0 * T), (0 * T, torch.ones_like(T))):
        y, dy = torch.func.jvp(lambda x, t, s: f(x, t, s, LABELS), (x, T, s), (x, *rates))
        assert torch.allclose(y, f(x, T, s, LABELS), rtol=1e-3, atol=1e-3)
        assert y.isfinite().all()
        assert dy.isfinite().all()
    leaves = [v.clone().requires_grad_() for v in (x, T, s)]
    f(*leaves, LABELS).square().sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@every_net
def test_derivatives_are_central_differences(name):
    """Of t at fixed s along a trajectory, as Eulerian objectives take them, and of s at fixed t."""
    f, x = flow_map(name), images(name, dtype=torch.float64)
    t = torch.tensor([0.05, 0.3, 1.0, 5.0, 80.0], dtype=torch.float64)
    s = torch.tensor([0.0, 0.05, 0.5, 1.0, 2.0], dtype=torch.float64)
    dx = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact, near = ForwardMode(), CentralDifferences(h=1e-5)
    ways = (
        (lambda x, t, c: f(x, t, s, c), x * t[:, None, None, None], t, dx * t[:, None, None, None], t),
        (lambda x, s, c: f(x, t, s, c), x, s, 0 * x, torch.full_like(s, 0.1)),
    )
    for function, *inputs in ways:
        y, dy = exact(function, *inputs[:2], LABELS, *inputs[2:])
        z, dz = near(function, *inputs[:2], LABELS, *inputs[2:])
        assert torch.allclose(y, z, rtol=1e-6, atol=1e-6)
        assert torch.allclose(dy, dz, rtol=1e-6, atol=1e-6)
        assert dy.abs().amax((1, 2, 3)).min() > 1e-4


def test_the_gradient_passes_through_the_derivative():
    f, x = flow_map("mlp"), images("mlp", dtype=torch.float64)
    _, dy = torch.func.jvp(lambda s: f(x, T, s, LABELS), (0.5 * T,), (torch.ones_like(T),))
    dy.square().sum().backward()
    weights = [p for n, p in f.named_parameters() if n in of_second_time([n])]
    assert weights
    assert all(p.grad.any() for p in weights)


@every_net
def test_slices_are_the_map(name):
    f, x = flow_map(name, torch.float32), images(name)
    assert torch.equal(f.diagonal(x, T, LABELS), f(x, T, T, LABELS))
    assert torch.equal(f.at_zero(x, T, LABELS), f(x, T, 0 * T, LABELS))
    assert torch.equal(f.at_zero(x, 3.0, LABELS), f(x, 3.0, 0.0, LABELS))


def test_levels_are_numbers_or_tensors():
    f, x = flow_map("mlp", torch.float32), images("mlp")
    t, s = torch.full((5,), 3.0).double(), torch.full((5,), 0.4).double()
    expected, end = f(x, t, s), f.jump(x, t, s)
    for levels in ((3.0, s), (t, 0.4), (3.0, 0.4)):
        assert torch.allclose(f(x, *levels), expected, rtol=1e-5, atol=1e-6)
        assert torch.allclose(f.jump(x, *levels), end, rtol=1e-5, atol=1e-6)
    assert torch.equal(f.jump(x, t, t), x)


def test_what_is_kept_of_a_level_holds_no_derivative():
    f, x = flow_map("mlp"), images("mlp", dtype=torch.float64)
    _, dy = torch.func.jvp(lambda x: f(x, 3.0, 0.4), (x,), (x,))
    assert torch.allclose(f(x, 3.0, 0.4), f(x, torch.full((5,), 3.0).double(), 0.4), atol=1e-12)
    assert torch.allclose(torch.func.jvp(lambda x: f(x, 3.0, 0.4), (x,), (x,))[1], dy)


def test_dropout_is_shared_by_the_derivative_and_the_forward():
    f, x = flow_map("mlp", dropout=0.5).train(), images("mlp", dtype=torch.float64)
    with same_dropout(x.device):
        y, _ = torch.func.jvp(lambda t: f(x, t, 0.5 * T), (T,), (T,))
    same, other = f(x, T, 0.5 * T), f(x, T, 0.5 * T)
    assert torch.allclose(same, y)
    assert not torch.allclose(other, y)


def test_sigma_data_is_the_scale_of_h():
    x, t, s = images("mlp", dtype=torch.float64), T, 0.3 * T
    f, g = flow_map("mlp"), flow_map("mlp", sigma_data=2.0)
    assert not torch.allclose(f(x, t, s), g(x, t, s))
    assert torch.equal(g.with_parts(g.net, g.precond)(x, t, s), g(x, t, s))
    with pytest.raises(UserError, match=r"sigma\.data"):
        flow_map("mlp", sigma_data=0.0)


# Refusals


def test_a_map_refuses_a_network_of_other_times():
    one, two = made("mlp"), made("mlp", times=2)
    for role in (Denoiser, Consistency):
        with pytest.raises(UserError, match=rf"^net\.times=2 is for flow maps, .* {role.role}: set"):
            role(two, EDM())
    for net in (one, torch.nn.Identity()):
        with pytest.raises(UserError, match=r"^net\.times: a flow map gives .* takes one: set net\.times=2"):
            FlowMap(net, EDM(), diagonal=True)


@every_net
def test_a_network_refuses_other_numbers_and_calls_of_other_times(name):
    for times in (0, 3, 1.5):
        with pytest.raises(UserError, match=rf"^net\.times={times} must be 1"):
            made(name, times=times)
    x, noise = images(name), torch.zeros(5)
    with pytest.raises(UserError, match=r"net\.times=2"):
        made(name, times=2)(x, noise)
    with pytest.raises(UserError, match=r"net\.times=1"):
        made(name)(x, noise, NONE, noise)


@pytest.mark.parametrize("words", [["method=ict", "net.times=2"], ["method=edm", "net.times=3"]])
def test_a_run_of_another_role_is_refused_in_one_line(tmp_path, words):
    done = run("train.py", tmp_path, "trainer=cpu", "data=ring", "budget=points", *words)
    assert done.status == 1
    (line,) = [line for line in done.err.splitlines() if line.startswith("error:")]
    assert "net.times=" in line


# Weights


def test_a_flow_map_begins_as_its_teacher():
    x, teacher = images("ddpmpp"), Denoiser(alive(made("ddpmpp")), EDM())
    student = FlowMap(made("ddpmpp", seed=1, times=2).eval(), EDM(), diagonal=True)
    copy_weights(student, teacher)
    for s in (0.0 * T, 0.3 * T, T):
        assert torch.equal(student(x, T, s, LABELS), teacher(x, T, LABELS))


def test_a_flow_map_begins_as_a_consistency_function():
    x, start = images("mlp"), Consistency(alive(made("mlp")), Boundary())
    student = FlowMap(made("mlp", seed=1, times=2).eval(), Boundary(), diagonal=False)
    copy_weights(student, start)
    assert torch.equal(student.at_zero(x, T), start(x, T))


def test_from_a_slice_of_a_flow_map_it_takes_all_weights():
    first, x = flow_map("mlp", torch.float32), images("mlp")
    student = FlowMap(made("mlp", seed=1, times=2).eval(), EDM(), diagonal=True)
    copy_weights(student, as_denoiser(first, "teacher.path"))
    assert torch.equal(student(x, T, 0.3 * T), first(x, T, 0.3 * T))


def test_weights_of_two_times_do_not_fit_one():
    first, student = flow_map("mlp", torch.float32), Denoiser(made("mlp"), EDM())
    with pytest.raises(UserError, match=r"^the teacher is of a network of two times, and net\.times is 1"):
        copy_weights(student, first.diagonal)
    with pytest.raises(UserError, match=r"^teacher\.path=x\.pt is of a network of two times"):
        load_into(student.net, first.net.state_dict(), "x.pt")


def test_weights_that_lack_a_part_of_the_second_time_are_refused():
    two = made("mlp", times=2)
    state = two.state_dict()
    state.pop("blocks.1.second_time.weight")
    with pytest.raises(UserError, match=r"blocks\.1\.second_time\.weight is absent there"):
        load_into(two, state, "x.pt")


def song(folder):
    return ddpmpp, edm, write_edm(folder / "edm.pkl", reference.values(reference.song()))


def dhariwal_unet(folder):
    tensors = reference.values(reference.dhariwal())
    return dhariwal, edm, write_edm(folder / "edm.pkl", tensors, "DhariwalUNet")


def unet_model(folder):
    torch.save(reference.values(reference.unetmodel()), folder / "openai.pt")
    return unetmodel, openai, folder / "openai.pt"


def unet_2d(folder):
    return tiny, diffusers, diffusers_folder(folder)


@pytest.mark.parametrize("write", [song, dhariwal_unet, unet_model, unet_2d])
def test_files_of_others_are_of_one_time_whatever_the_student_is(tmp_path, write):
    """`net` of a teacher is the student's by default."""
    make, read, path = write(tmp_path)
    one, two, student = read(path, make()), read(path, make(times=2)), make(times=2).eval()
    shape = student.size if isinstance(student, ADM | DDPMUNet) else (8, 8)
    x = torch.randn(3, 3, *shape)
    sigma = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    assert torch.equal(two(x, sigma), one(x, sigma))
    f = FlowMap(student, two.precond, diagonal=True)
    copy_weights(f, two)
    assert torch.equal(f(x, sigma, 0.0), one(x, sigma))


def test_a_teacher_that_is_trained_first_is_of_one_time(tmp_path):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        words = ["method=cd", "data=moons", "budget=points", "teacher_run.experiment=edm_moons"]
        words += [f"run_dir={tmp_path}", f"hydra.run.dir={tmp_path}", "net.times=2", "net.width=24"]
        config = compose("train", words, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        find_teacher(config, tmp_path)
        found = []
        teach(config, tmp_path, lambda teachers, _: found.append(teachers.net))
    assert [(net.times, net.width) for net in found] == [(1, 24)]


# Exports


def test_an_export_says_what_h_is(tmp_path):
    f = frozen(flow_map("mlp", torch.float32))
    model = outgoing(f, (3, 4, 4), 3, {"2jump": Jumps((80.0, 0.8))}, Pixels(), experiment="none", step=7)
    assert programs(model)["network"].names == ("x", "noise", "h", "label")
    out = Onnx()(model, tmp_path)
    for name, read_back in {**out.runs, "network": out.network}.items():
        inputs = programs(model)[name].inputs(5, 3)
        with torch.no_grad():
            expected = programs(model)[name].module(*inputs)
        assert torch.allclose(read_back(*inputs), expected, atol=1e-5)
    network = onnxruntime.InferenceSession(tmp_path / "network.onnx")
    assert [given.name for given in network.get_inputs()] == ["x", "noise", "h", "label"]
    formula = "atan(s/0.5) / atan(t/0.5)"
    assert network.get_modelmeta().custom_metadata_map["h"] == formula
    facts = model_facts(model, dict.fromkeys(programs(model), Deviation(0.0, 0.0, 1.0)), [])
    assert json.loads(json.dumps(facts))["h"] == formula
    assert f"h = {formula}" in readme_text(model, out, facts)


def test_its_network_is_halved_like_any_other():
    f = frozen(flow_map("mlp", torch.float32))
    model = outgoing(f, (3, 4, 4), 0, {"1jump": Jumps((80.0,))}, Pixels())
    halved, x = Half().model(model).f, images("mlp")
    assert isinstance(halved, FlowMap)
    assert torch.allclose(halved(x, T, 0.5 * T), f(x, T, 0.5 * T), atol=0.05)
