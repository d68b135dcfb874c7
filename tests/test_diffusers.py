"""Folders of diffusers as teachers: the network against the library's, the samples against native DDIM."""

import json
import math
from functools import partial

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from consistency.errors import UserError
from consistency.model.condition import given_label
from consistency.model.coordinates import DDPM
from consistency.model.maps import Denoiser
from consistency.model.precond import Boundary, Epsilon, Velocity
from consistency.nets.ddpm import DDPMUNet
from consistency.nets.layers import PositionalEmbedding
from consistency.nets.mlp import MLP
from consistency.nets.unet import UNet
from consistency.sampling.ode import Euler
from consistency.teachers.diffusers import diffusers, seal
from tests.conftest import run
from tests.reference import ddpm_unet, edm_unet

WEIGHTS = "diffusion_pytorch_model.safetensors"
tiny = partial(DDPMUNet, **ddpm_unet.SIZE)


def default():
    """The network with the library's defaults, and with classes."""
    return tiny(eps=1e-5, padding=1, head_channels=8, classes=4, embedding=PositionalEmbedding(8, 0, True))


CASES = {
    "ddpm": (tiny, ddpm_unet.DDPM, False, ddpm_unet.DDPM_OUTPUT),
    "defaults": (default, ddpm_unet.DEFAULTS, True, ddpm_unet.DEFAULTS_OUTPUT),
}
every_case = pytest.mark.parametrize(("make", "config", "conditional", "golden"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def filled(make):
    net = make().double().eval()
    edm_unet.fill(net)
    return net


def folder(root, make=tiny, config=ddpm_unet.DDPM, scheduler=ddpm_unet.SCHEDULER, parts=False, old=False):
    """What save_pretrained writes: flat, as a model, or in parts, as a pipeline."""
    unet, levels = (root / "unet", root / "scheduler") if parts else (root, root)
    unet.mkdir(parents=True, exist_ok=True)
    levels.mkdir(parents=True, exist_ok=True)
    (unet / "config.json").write_text(json.dumps(config))
    (levels / "scheduler_config.json").write_text(json.dumps(scheduler))
    state = filled(make).state_dict()
    save_file({ddpm_unet.name_there(n, old): p for n, p in state.items()}, unet / WEIGHTS)
    return root


def refused(path, net=None):
    with pytest.raises(UserError) as caught:
        diffusers(path, net or tiny())
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("teacher.path=")
    return message


# The network


@pytest.mark.parametrize(
    ("size", "multipliers", "parameters"),
    [(32, (1, 2, 2, 2), 35_746_307), (256, (1, 1, 2, 2, 4, 4), 113_673_219)],
)
def test_parameters_of_the_public_networks(size, multipliers, parameters):
    with torch.device("meta"):
        net = DDPMUNet((3, size, size), multipliers=multipliers)
    assert sum(p.numel() for p in net.parameters()) == parameters


@every_case
def test_the_network_is_diffusers(make, config, conditional, golden):
    x, noise, label = ddpm_unet.inputs()
    with torch.no_grad():
        output = filled(make)(x, noise, given_label(label if conditional else None))
    assert output[:, :, 2, 3].flatten().tolist() == pytest.approx(golden, abs=2e-6)


def test_a_fresh_network_starts_near_zero_and_learns_everywhere():
    net, (x, noise, label) = default().double(), ddpm_unet.inputs()
    y = net(x, noise, given_label(label))
    assert 0 < y.abs().max() < 1e-3
    y.sub(x).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_cosines_first_and_no_last_frequency():
    """flip_sin_to_cos and freq_shift 0: frequencies 10000^(-i/4) of four."""
    features = PositionalEmbedding(8, shift=0, flip=True)(torch.tensor([3.0], dtype=torch.float64))
    angles = 3 * 10 ** -torch.arange(4, dtype=torch.float64)
    torch.testing.assert_close(features[0], torch.cat([angles.cos(), angles.sin()]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 32}, r"^net\.groups=32 does not divide the 8 channels"),
        ({"head_channels": 3}, r"^net\.head_channels=3"),
        ({"shape": (3, 9, 9)}, r"net\.multipliers.*data\.resolution"),
        ({"shape": (2,)}, "net=mlp"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(UserError, match=message):
        tiny(**options)


# The folder


@pytest.mark.parametrize("parts", [False, True], ids=["flat", "parts"])
@pytest.mark.parametrize("old", [False, True], ids=["new names", "old names"])
@every_case
def test_weights_find_their_places(tmp_path, make, config, conditional, golden, parts, old):
    D = diffusers(folder(tmp_path / "there", make, config, parts=parts, old=old), make().double())
    assert not D.training
    assert not any(p.requires_grad for p in D.parameters())
    x, noise, label = ddpm_unet.inputs()
    output = D.net(x, noise, given_label(label if conditional else None))
    assert output[:, :, 2, 3].flatten().tolist() == pytest.approx(golden, abs=2e-6)


def test_half_precision_files_are_widened(tmp_path):
    path = folder(tmp_path)
    save_file({n: p.half() for n, p in load_file(path / WEIGHTS).items()}, path / WEIGHTS)
    assert {p.dtype for p in diffusers(path, tiny()).parameters()} == {torch.float32}


def test_samples_are_those_of_the_native_sampler(tmp_path):
    """Euler's method on D(x, σ) is deterministic DDIM; x_T = z there is σ z/√(1-ᾱ) here."""
    D = diffusers(folder(tmp_path), tiny().double())
    indices, z = list(range(900, -1, -100)), torch.randn(4, 3, 8, 8, dtype=torch.float64)
    sigmas = D.precond.coordinate.levels[indices]
    start = (1 + sigmas[0] ** -2).sqrt()  # 1/√(1-ᾱ)
    ours, theirs = Euler(sigmas.tolist())(D, start * z), ddpm_unet.ddim(D.net, z, indices)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


def test_a_velocity_is_diffusers(tmp_path):
    """v = √ᾱ ε - √(1-ᾱ) x_0 (scheduler.get_velocity), from which D recovers x_0."""
    scheduler = ddpm_unet.SCHEDULER | {"prediction_type": "v_prediction"}
    precond = diffusers(folder(tmp_path, scheduler=scheduler), tiny()).precond
    assert isinstance(precond, Velocity)
    clean, eps = torch.randn(2, 5, dtype=torch.float64)
    bar = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)[[0, 10, 500, 900, 999]]
    sigma = (1 / bar - 1).sqrt()
    c, v = precond(sigma), bar.sqrt() * eps - (1 - bar).sqrt() * clean
    torch.testing.assert_close(c.skip * (clean + sigma * eps) + c.out * v, clean)
    torch.testing.assert_close(c.inp * (clean + sigma * eps), bar.sqrt() * clean + (1 - bar).sqrt() * eps)
    assert c.noise.tolist() == pytest.approx([0, 10, 500, 900, 999])


@pytest.mark.parametrize(
    ("changes", "coordinate"),
    [
        ({}, DDPM.linear()),
        (
            {"beta_schedule": "linear", "beta_end": 0.01, "num_train_timesteps": 100},
            DDPM.linear(100, 1e-4, 0.01),
        ),
        ({"beta_schedule": "scaled_linear", "beta_end": 0.012}, DDPM.scaled_linear(1000, 1e-4, 0.012)),
        ({"beta_schedule": "squaredcos_cap_v2"}, DDPM.cosine()),
        ({"trained_betas": [0.1, 0.2, 0.3]}, DDPM((0.1, 0.2, 0.3))),
    ],
)
def test_chains(tmp_path, changes, coordinate):
    path = folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | changes)
    assert diffusers(path, tiny()).precond == Epsilon(coordinate)


# What a user can mend


@pytest.mark.parametrize(
    ("field", "value", "key"),
    [
        ("norm_eps", 1e-5, "net.eps"),
        ("norm_num_groups", 8, "net.groups"),
        ("flip_sin_to_cos", True, "net.embedding.flip"),
        ("freq_shift", 0, "net.embedding.shift"),
        ("downsample_padding", 1, "net.padding"),
        ("attention_head_dim", 8, "net.head_channels"),
        ("num_class_embeds", 10, "data.conditional"),
        ("down_block_types", ["AttnDownBlock2D", "DownBlock2D", "DownBlock2D"], "net.attention"),
        ("up_block_types", ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D"], "net.attention"),
    ],
)
def test_settings_that_shapes_do_not_show(tmp_path, field, value, key):
    message = refused(folder(tmp_path, config=ddpm_unet.DDPM | {field: value}))
    assert f"config.json: {field} is " in message
    assert message.endswith(f"set {key}")


@pytest.mark.parametrize(
    ("field", "default"),
    [
        ("norm_eps", 1e-5),
        ("flip_sin_to_cos", True),
        ("freq_shift", 0),
        ("downsample_padding", 1),
        ("attention_head_dim", 8),
    ],
)
def test_a_silent_config_means_the_defaults_of_the_library(tmp_path, field, default):
    config = {k: v for k, v in ddpm_unet.DDPM.items() if k != field}
    assert f"{field} is {default}, but" in refused(folder(tmp_path, config=config))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("_class_name", "UNet2DConditionModel"),
        ("act_fn", "gelu"),
        ("add_attention", False),
        ("attn_norm_num_groups", 2),
        ("center_input_sample", True),
        ("class_embed_type", "timestep"),
        ("downsample_type", "resnet"),
        ("mid_block_scale_factor", 1.414),
        ("mid_block_type", None),
        ("resnet_time_scale_shift", "scale_shift"),
        ("time_embedding_type", "fourier"),
        ("upsample_type", "resnet"),
    ],
)
def test_settings_that_are_not_supported(tmp_path, field, value):
    message = refused(folder(tmp_path, config=ddpm_unet.DDPM | {field: value}))
    assert str(value) in message
    assert "supported" in message


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"beta_schedule": "sigmoid"}, ["beta_schedule=sigmoid", "scaled_linear"]),
        ({"beta_schedule": ["linear"]}, ["beta_schedule="]),
        ({"beta_end": 2.0}, ["beta_end", "between 0 and 1"]),
        ({"beta_end": "much"}, ["beta_end", "between 0 and 1"]),
        ({"num_train_timesteps": -1}, ["num_train_timesteps"]),
        ({"trained_betas": [0.1, "b"]}, ["trained_betas"]),
        ({"trained_betas": 0.1}, ["trained_betas"]),
        ({"prediction_type": "sample"}, ["prediction_type=sample", "epsilon", "v_prediction"]),
        ({"prediction_type": "epsilom"}, ["did you mean 'epsilon'?"]),
        ({"rescale_betas_zero_snr": True}, ["rescale_betas_zero_snr"]),
    ],
)
def test_schedulers_that_are_not_supported(tmp_path, changes, words):
    message = refused(folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | changes))
    assert all(word in message for word in ["scheduler_config.json", *words])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("LCMScheduler", "distilled into few steps"),
        ("TCDScheduler", "distilled into few steps"),
        ("UnCLIPScheduler", "unCLIP"),
        ("FlowMatchEulerDiscreteScheduler", "flow matching"),
        ("EDMEulerScheduler", "continuous σ"),
        ("IPNDMScheduler", "another law"),
        ("SCMScheduler", "sCM"),
        ("DDIM", "not a scheduler that is known here"),
        ("InventedScheduler", "not a scheduler that is known here"),
        (None, "not a scheduler that is known here"),
    ],
)
def test_schedulers_of_other_networks(tmp_path, name, words):
    """With the fields of a chain, which most of them have."""
    message = refused(folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | {"_class_name": name}))
    assert f"_class_name={name}: " in message
    assert words in message


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("use_flow_sigmas", True, "flow matching"),
        ("predict_epsilon", False, "predicts the image"),
        ("timestep_type", "continuous", "ln(σ)/4"),
        ("variance_type", "learned_range", "predicts a variance"),
        ("invented", 1.5, "is not known"),
    ],
)
def test_fields_that_make_another_network(tmp_path, field, value, words):
    message = refused(folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | {field: value}))
    assert f"{field}={value!r}" in message
    assert words in message


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": True, "use_flow_sigmas": False},
        {
            "_class_name": "EulerDiscreteScheduler",
            "timestep_spacing": "trailing",
            "timestep_type": "discrete",
        },
        {"invented": None, "_another": True, "steps_offset": 1, "variance_type": None},
    ],
)
def test_how_a_sampler_steps_says_nothing_of_the_network(tmp_path, changes):
    path = folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | changes)
    assert diffusers(path, tiny()).precond == Epsilon(DDPM.linear())


@pytest.mark.parametrize(("name", "ends"), [("DDIM", (1e-4, 0.02)), ("HeunDiscrete", (0.00085, 0.012))])
def test_a_silent_scheduler_means_the_betas_of_its_class(tmp_path, name, ends):
    path = folder(tmp_path, scheduler={"_class_name": f"{name}Scheduler"})
    assert diffusers(path, tiny()).precond == Epsilon(DDPM.linear(1000, *ends))


def test_a_consistency_model_has_its_own_scheduler(tmp_path):
    """As openai/diffusers-cd_imagenet64_l2 has it; the network is given 250 ln σ."""
    scheduler = {"_class_name": "CMStochasticIterativeScheduler", "num_train_timesteps": 40, "rho": 7.0}
    scheduler |= {
        "clip_denoised": True,
        "s_noise": 1.0,
        "sigma_data": 0.4,
        "sigma_max": 80.0,
        "sigma_min": 0.01,
    }
    f = diffusers(folder(tmp_path, scheduler=scheduler), tiny())
    assert f.precond == Boundary(0.4, 0.01, 250.0)
    x, sigma = torch.randn(2, 3, 8, 8), torch.tensor([0.01, 2.0], dtype=torch.float64)
    y = f(x, sigma)
    assert torch.equal(y[0], x[0])
    F = f.net(x[1:] / (2**2 + 0.4**2) ** 0.5, torch.tensor([250 * math.log(2)]))
    skip, out = 0.4**2 / (1.99**2 + 0.4**2), 1.99 * 0.4 / (2**2 + 0.4**2) ** 0.5
    torch.testing.assert_close(y[1:], skip * x[1:] + out * F, rtol=0, atol=1e-5)


@pytest.mark.parametrize("value", [-1, 0, "half", None, [0.5], 2**62, 1e308])
@pytest.mark.parametrize("field", ["sigma_data", "sigma_min"])
def test_a_scheduler_of_a_consistency_model_with_wrong_numbers(tmp_path, field, value):
    scheduler = {"_class_name": "CMStochasticIterativeScheduler", field: value}
    message = refused(folder(tmp_path, scheduler=scheduler))
    assert f"{field}={value!r}" in message
    assert "scheduler_config.json" in message


@pytest.mark.parametrize(
    "changes",
    [
        {"_class_name": "CMStochasticIterativeScheduler", "sigma_data": 10**400},
        {"beta_start": 10**400},
        {"beta_end": 10**400, "beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 10**400},
        {"trained_betas": [10**400, 0.1]},
    ],
)
def test_a_scheduler_with_numbers_beyond_float64(tmp_path, changes):
    assert "scheduler_config.json" in refused(folder(tmp_path, scheduler=ddpm_unet.SCHEDULER | changes))


PLAIN = {
    "_target_": "consistency.model.maps.Denoiser",
    "net": {"_target_": "consistency.nets.mlp.MLP", "shape": [2], "width": 8, "blocks": 1},
    "precond": {"_target_": "consistency.model.precond.Boundary", "time_scale": 0.25},
}


def own_folder(root, **config):
    """What `export=diffusers` leaves of a network that is none of the library's."""
    f = Denoiser(MLP((2,), width=8, blocks=1), Boundary())
    (root / "unet").mkdir()
    (root / "unet" / "config.json").write_text(json.dumps({"_class_name": "Network", **config}))
    save_file(f.state_dict(), root / "unet" / WEIGHTS)
    seal(root)
    return f


def test_a_network_of_this_project_brings_its_settings(tmp_path):
    f, x, sigma = own_folder(tmp_path, denoiser=PLAIN), torch.randn(3, 2), torch.tensor([0.1, 1.0, 10.0])
    back = diffusers(tmp_path, tiny())
    assert not back.training
    assert not any(p.requires_grad for p in back.parameters())
    assert back.precond == f.precond
    assert torch.equal(back(x, sigma), f(x, sigma))


@pytest.mark.parametrize(
    ("denoiser", "words"),
    [
        (None, "describes no model"),
        ([1], "describes no model"),
        ({}, "describes no model"),
        ({"_target_": "consistency.nets.mlp.MLP", "shape": [2]}, "would call consistency.nets.mlp.MLP"),
        (PLAIN | {"net": {"_target_": "consistency.nets.mlp.MLP"}}, "model.net makes no"),
        (PLAIN | {"precond": "${sigma.nowhere}"}, "model.precond in its config refers"),
        (
            PLAIN | {"net": {"_target_": "os.system", "command": "false"}},
            "would call os.system (model.net)",
        ),
        (PLAIN | {"net": {**PLAIN["net"], "width": 16}}, "net.stem.weight"),
    ],
)
def test_settings_of_this_project_that_are_wrong(tmp_path, denoiser, words):
    own_folder(tmp_path, denoiser=denoiser)
    assert words in refused(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json", WEIGHTS])
def test_files_that_are_missing(tmp_path, file):
    (folder(tmp_path) / file).unlink()
    message = refused(tmp_path)
    assert str(tmp_path) in message
    assert file in message


@pytest.mark.parametrize("file", ["config.json", "scheduler_config.json", WEIGHTS])
@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff" * 40, b"[" * 100_000])
def test_files_that_are_damaged(tmp_path, file, content):
    (folder(tmp_path) / file).write_bytes(content)
    message = refused(tmp_path)
    assert file in message
    assert "damaged" in message


def test_weights_cut_short(tmp_path):
    weights = folder(tmp_path) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-7])
    assert "damaged" in refused(tmp_path)


def test_pickles_are_not_read(tmp_path):
    weights = folder(tmp_path) / WEIGHTS
    weights.rename(tmp_path / "diffusion_pytorch_model.bin")
    message = refused(tmp_path)
    assert ".bin" in message
    assert "safetensors.torch.save_file" in message


@pytest.mark.parametrize(
    "change",
    [
        lambda state, name: state.pop(name),
        lambda state, name: state.update({name: state[name][:-1]}),
        lambda state, name: state.update({name.replace("to_v", "to_u"): state.pop(name)}),
        lambda state, name: state.update({name + "_extra": state[name].clone()}),
    ],
    ids=["missing", "reshaped", "renamed", "left over"],
)
def test_tensors_that_do_not_fit(tmp_path, change):
    weights, name, net = folder(tmp_path) / WEIGHTS, "up_blocks.1.attentions.1.to_v.weight", tiny()
    before = {n: p.clone() for n, p in net.state_dict().items()}
    state = load_file(weights)
    change(state, name)
    save_file(state, weights)
    assert name in refused(tmp_path, net)
    assert all(torch.equal(p, before[n]) for n, p in net.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sample_size": 64}, "sample_size is 64, but images of the data are 8x8: set data.resolution"),
        ({"sample_size": [8, 16]}, "sample_size is [8, 16], but images of the data are 8x8"),
        ({"sample_size": "8"}, "sample_size is '8', but"),
        ({"out_channels": 6}, "learned sigma"),
        ({"in_channels": 4, "out_channels": 4}, "in_channels is 4, and the data have 3 channels"),
        ({"out_channels": 4}, "out_channels is 4, and the data have 3 channels"),
        ({"invented": "yes"}, "invented='yes' is not known"),
    ],
)
def test_sizes_and_fields_that_are_not_the_networks(tmp_path, changes, words):
    assert words in refused(folder(tmp_path, config=ddpm_unet.DDPM | changes))


@pytest.mark.parametrize("size", [8, [8, 8], None])
def test_sizes_that_are(tmp_path, size):
    diffusers(folder(tmp_path, config=ddpm_unet.DDPM | {"sample_size": size}), tiny())


# Weights in parts


def sharded(path, files=2):
    """The weights of a folder as shards with an index, which comes back."""
    state, names = load_file(path / WEIGHTS), {}
    (path / WEIGHTS).unlink()
    for i in range(files):
        shard = f"diffusion_pytorch_model-{i + 1:05d}-of-{files:05d}.safetensors"
        part = dict(list(state.items())[i::files])
        save_file(part, path / shard)
        names |= dict.fromkeys(part, shard)
    return write_index(path, names)


def write_index(path, names):
    index = path / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": names}))
    return names


def test_shards_are_the_whole(tmp_path):
    whole = diffusers(folder(tmp_path), tiny()).state_dict()
    sharded(tmp_path)
    parts = diffusers(tmp_path, tiny()).state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda names: "../model.safetensors", "is not the name of a shard"),
        (lambda names: "/etc/passwd", "is not the name of a shard"),
        (lambda names: "a\\b.safetensors", "is not the name of a shard"),
        (lambda names: 7, "is not the name of a shard"),
        (lambda names: "other.safetensors", "lacks other.safetensors"),
        (lambda names: max(names.values()), "fetch the shards again"),
    ],
)
def test_an_index_that_is_wrong(tmp_path, change, words):
    names = sharded(folder(tmp_path))
    first = min(names, key=lambda name: (names[name], name))
    write_index(tmp_path, names | {first: change(names)})
    assert words in refused(tmp_path)


def test_an_index_of_another_kind(tmp_path):
    sharded(folder(tmp_path))
    write_index(tmp_path, [])
    assert "damaged" in refused(tmp_path)


def test_a_shard_that_lacks_a_tensor(tmp_path):
    names = sharded(folder(tmp_path))
    write_index(tmp_path, names | {"invented": max(names.values())})
    assert "lacks invented" in refused(tmp_path)


def test_a_tensor_that_the_index_leaves_out(tmp_path):
    names = sharded(folder(tmp_path))
    write_index(tmp_path, dict(list(names.items())[1:]))
    assert "holds, which diffusion_pytorch_model.safetensors.index.json does not say" in refused(tmp_path)


@pytest.mark.parametrize("name", ["vae", "vqvae", "movq"])
def test_pipelines_on_codes_of_images(tmp_path, name):
    path = folder(tmp_path, parts=True)
    (path / "model_index.json").write_text(json.dumps({name: ["diffusers", "VQModel"]}))
    assert f"has a {name}" in refused(path)


def test_two_sets_of_weights(tmp_path):
    sharded(folder(tmp_path))
    save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS)
    assert "two sets of weights" in refused(tmp_path)


def test_half_precision_alone_is_read_and_said(tmp_path, capsys):
    path = folder(tmp_path)
    whole = diffusers(path, tiny()).state_dict()
    half = path / "diffusion_pytorch_model.fp16.safetensors"
    save_file({n: p.half() for n, p in load_file(path / WEIGHTS).items()}, half)
    diffusers(path, tiny())
    assert capsys.readouterr().err == ""  # the whole is there
    (path / WEIGHTS).unlink()
    rounded = diffusers(path, tiny()).state_dict()
    assert "fp16" in capsys.readouterr().err
    assert all(torch.allclose(whole[name], rounded[name], rtol=1e-3, atol=1e-6) for name in whole)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("diffusion_pytorch_model.non_ema.safetensors", "of another kind"),
        ("diffusion_pytorch_model-00001-of-00002.safetensors", "all shards with their index"),
        ("diffusion_pytorch_model.fp16.bin", "may hold code"),
        ("model.onnx", "fetch the .safetensors"),
    ],
)
def test_advice_on_what_is_there(tmp_path, name, words):
    (folder(tmp_path) / WEIGHTS).rename(tmp_path / name)
    assert words in refused(tmp_path)


def test_another_size_of_network(tmp_path):
    assert "time_embedding.linear_1.weight is [32, 8] there and [64, 16] here" in refused(
        folder(tmp_path), tiny(channels=16)
    )


def test_another_kind_of_network(tmp_path):
    with pytest.raises(UserError, match="net=ddpm_cifar10"):
        diffusers(folder(tmp_path), UNet((3, 8, 8), channels=8))


# As a user


def test_a_folder_teaches_a_student_from_the_command_line(tmp_path):
    (tmp_path / "images").mkdir()
    for k in range(4):
        Image.new("RGB", (8, 8), (60 * k, 0, 0)).save(tmp_path / f"images/{k}.png")
    words = ["experiment=cd_ddpm_cifar10", "data=image_folder", f"data.root={tmp_path}/images"]
    words += [
        "data.resolution=8",
        "data.batch_size=4",
        "data.samples=4",
        "trainer=cpu",
        "trainer.max_steps=2",
    ]
    words += [
        "net.channels=8",
        "net.multipliers=[1,2,2]",
        "net.blocks=1",
        "net.attention=[4]",
        "net.groups=4",
    ]
    taught = run("train.py", tmp_path / "cd", *words, f"teacher.path={folder(tmp_path / 'ddpm')}")
    assert taught.status == 0, taught.err
    assert taught.result["steps"] == 2
