"""Denoisers of EDM (2206.00364) and OpenAI (2303.01469), for weights that anyone can write down.

Their own networks and preconditioners were given the values of `values`, by their own names, and computed in
float64. The tables of names and shapes below were compared with those networks' state_dicts: equal.
"""

import torch
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]

# Pixel (2, 3) of the three channels of both images: with the labels, and with none where there may be none.
DDPMPP = (
    [-0.005923, 0.868870, 0.478336, 0.319134, 0.038008, -0.229870],
    [-0.127353, 0.826387, 0.573793, -0.173397, -0.715026, 0.009194],
)
NCSNPP = (
    [0.161429, 0.890554, 0.520653, -0.188083, -0.011134, 0.433567],
    [0.209529, 0.949005, 0.637923, -0.278551, -0.098404, 0.500376],
)
VP = (  # the weights of DDPMPP, in a VPPrecond
    [0.295722, 0.900569, 0.869604, -3.387283, -0.549394, 1.621555],
    [0.807539, 1.146266, 0.521322, 1.548380, 5.511738, 2.629401],
)
DHARIWAL = (
    [-0.027898, 0.452819, 0.418280, -1.040788, -0.895017, -0.112043],
    [0.052992, 0.481528, 0.380940, -0.602370, -0.589355, 0.015432],
)
UNETMODEL = [0.215597, 0.655951, 0.405348, -0.081144, 0.100316, 0.386199]
PLAIN = [0.080707, 0.681142, 0.510820, 0.187135, 0.247589, -0.423557]

ADM_AUGMENTED = (  # DhariwalUNet with augment_dim = 9, with the labels of `augment` and with none
    [0.101195, 0.500982, 0.370170, 0.276268, -0.385720, -0.548316],
    [0.100549, 0.483241, 0.341833, 0.210183, -0.416225, -0.443940],
)
VE = [0.237692, 0.860910, 0.386417, -2.363666, -3.028257, 2.659328]  # the weights of NCSNPP, in a VEPrecond
IDDPM = [-0.016940, 1.320735, 0.952693, -3.211580, 2.680710, 3.263940]
ECM = [-0.004178, 0.871072, 0.480402, 0.318878, 0.037945, -0.229707]
CONSISTENCY = [0.215284, 0.658838, 0.407212, -0.081113, 0.100242, 0.386000]  # the weights of UNETMODEL

# The same pixel of samples that their own samplers make of `noise`, with the labels, computed in float32 as
# published: NVlabs/edm 008a4e5 (`edm_sampler`, 18 steps), locuslab/ect 4311059 (`generator_fn`, mid_t 0.821),
# openai/consistency_models e32b69e (`karras_sample`: onestep; multistep with ts 0,22,39 of 40, both clipped;
# heun with 18 steps, clipped).
EDM_HEUN = [-2.356471, -1.097047, -0.842092, -0.350071, -0.202584, 0.009340]
VP_HEUN = [45.408123, -78.793205, -15.141976, -66.933876, 68.598610, 11.922692]
VE_HEUN = [-18.763470, -100.336334, 31.305178, -60.281815, 39.838234, -2.140583]
ADM_HEUN = [-0.547083, -1.165240, -0.103665, -0.378351, -0.321893, 0.066125]
IDDPM_HEUN = [-112.172264, -56.026249, 46.944389, -45.672432, 80.131432, 44.387997]
ECM_ONE = [-1.104803, -0.495657, -0.642067, 0.575407, 0.064671, 0.197659]
ECM_TWO = [-0.617168, -0.353199, -0.931261, -0.171634, 0.242302, -0.569181]
OPENAI_HEUN = [-0.982666, 0.484907, -0.165897, -0.074891, 0.566071, 0.145025]
OPENAI_ONE = [-0.169020, 0.565552, 0.037460, 0.044872, -0.111798, 0.165748]
OPENAI_TWO = [-0.166014, 0.035429, 0.349420, -0.310959, 0.155892, 0.269684]
IDDPM_LEVELS = {0: 20291.171875, 1: 641.662415, 500: 1.01238946, 990: 0.0251310728, 999: 0.00642233711}  # u_j

SIZE = {"shape": (3, 8, 8), "multipliers": (1, 2), "blocks": 1, "attention": (4,), "classes": 4}
SONG_SIZE = SIZE | {"channels": 8, "augment": 9}
DHARIWAL_SIZE = SIZE | {"channels": 64}
UNETMODEL_SIZE = SIZE | {"channels": 128, "head_channels": 32}
PLAIN_SIZE = UNETMODEL_SIZE | {"multipliers": (1, 1), "classes": 0, "scale_shift": False}


def values(shapes: Shapes) -> dict[str, Tensor]:
    """Weights that look random and are not, of a size that keeps every branch alive."""
    return {name: value(name, shape, k) for k, (name, shape) in enumerate(sorted(shapes.items()))}


def value(name: str, shape: tuple[int, ...], k: int) -> Tensor:
    """One of them. Filters are what they are; a vector of weights belongs to a normalisation."""
    if name.endswith("resample_filter"):
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0] if shape[-1] == 4 else [1.0, 1.0], dtype=torch.float64)
        return torch.outer(taps, taps)[None, None] / taps.sum() ** 2
    i = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).reshape(shape)
    u = (torch.sin(12.9898 * i + k) * 43758.5453).frac()
    if len(shape) == 1:
        return 1 + 0.3 * u if name.endswith("weight") else 0.3 * u
    return 2 * u * u[0].numel() ** -0.5


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """x, σ, label."""
    x = torch.arange(384, dtype=torch.float64).sin().reshape(2, 3, 8, 8)
    return x, torch.tensor([0.3, 4.0], dtype=torch.float64), torch.tensor([1, 3])


def augment() -> Tensor:
    """Labels of augmentation [2, 9]."""
    return torch.arange(18, dtype=torch.float64).cos().reshape(2, 9)


def noise() -> tuple[Tensor, Tensor]:
    """Unit noise that sampling begins with, and the one that is added before a second call."""
    k = torch.arange(384, dtype=torch.float64)
    first, fresh = 1.2 * (1.7 * k**1.5).cos(), 1.2 * (0.9 * k**1.3).sin()
    return first.reshape(2, 3, 8, 8), fresh.reshape(2, 3, 8, 8)


def affine(name: str, *weight: int) -> Shapes:
    """A layer with a bias."""
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def edm_block(name: str, n_in: int, n_out: int, width: int, scales: int, **kind: int) -> Shapes:
    """A UNetBlock of EDM's.

    Args:
        name: in the file.
        n_in: channels of the input.
        n_out: channels of the output.
        width: of the conditioning vector.
        scales: 2 if the vector scales and shifts, 1 if it is added.
        kind: attention=1, if there is; taps=number, if it resamples; skip=0, if it then has no convolution.
    """
    shapes = affine(f"{name}.norm0", n_in) | affine(f"{name}.conv0", n_out, n_in, 3, 3)
    shapes |= affine(f"{name}.affine", scales * n_out, width)
    shapes |= affine(f"{name}.norm1", n_out) | affine(f"{name}.conv1", n_out, n_out, 3, 3)
    taps = kind.get("taps")
    if n_in != n_out or (taps and kind.get("skip", 1)):
        shapes |= affine(f"{name}.skip", n_out, n_in, 1, 1)
    if taps:
        shapes |= {f"{name}.{layer}.resample_filter": (1, 1, taps, taps) for layer in ("conv0", "skip")}
    if kind.get("attention"):
        shapes |= affine(f"{name}.norm2", n_out) | affine(f"{name}.qkv", 3 * n_out, n_out, 1, 1)
        shapes |= affine(f"{name}.proj", n_out, n_out, 1, 1)
    return shapes


def song(taps: int = 2) -> Shapes:
    """SongUNet of SONG_SIZE: DDPM++ with 2 taps, NCSN++ with 4."""
    n = 16 if taps == 4 else 8
    shapes = affine("map_label", n, 4) | {"map_augment.weight": (n, 9)}
    shapes |= affine("map_layer0", 32, n) | affine("map_layer1", 32, 32)
    shapes |= affine("enc.8x8_conv", 8, 3, 3, 3)
    if taps == 4:
        shapes |= {"map_noise.freqs": (8,)} | affine("enc.4x4_aux_residual", 8, 3, 3, 3)
        shapes |= {"enc.4x4_aux_residual.resample_filter": (1, 1, 4, 4)}
    rows = [
        ("enc.8x8_block0", 8, 8, {}),
        ("enc.4x4_down", 8, 8, {"taps": taps}),
        ("enc.4x4_block0", 8, 16, {"attention": 1}),
        ("dec.4x4_in0", 16, 16, {"attention": 1}),
        ("dec.4x4_in1", 16, 16, {}),
        ("dec.4x4_block0", 32, 16, {}),
        ("dec.4x4_block1", 24, 16, {"attention": 1}),
        ("dec.8x8_up", 16, 16, {"taps": taps}),
        ("dec.8x8_block0", 24, 8, {}),
        ("dec.8x8_block1", 16, 8, {}),
    ]
    for name, n_in, n_out, kind in rows:
        shapes |= edm_block(name, n_in, n_out, 32, 1, **kind)
    return shapes | affine("dec.8x8_aux_norm", 8) | affine("dec.8x8_aux_conv", 3, 8, 3, 3)


def dhariwal_augmented(out: int = 3) -> Shapes:
    """The same with augment_dim = 9; an iDDPMPrecond has one of 6 output channels."""
    return dhariwal() | {"map_augment.weight": (64, 9)} | affine("out_conv", out, 64, 3, 3)


def dhariwal() -> Shapes:
    """DhariwalUNet of DHARIWAL_SIZE."""
    shapes = {"map_label.weight": (256, 4)} | affine("enc.8x8_conv", 64, 3, 3, 3)
    shapes |= affine("map_layer0", 256, 64) | affine("map_layer1", 256, 256)
    rows = [
        ("enc.8x8_block0", 64, 64, {}),
        ("enc.4x4_down", 64, 64, {"taps": 2, "skip": 0}),
        ("enc.4x4_block0", 64, 128, {"attention": 1}),
        ("dec.4x4_in0", 128, 128, {"attention": 1}),
        ("dec.4x4_in1", 128, 128, {}),
        ("dec.4x4_block0", 256, 128, {"attention": 1}),
        ("dec.4x4_block1", 192, 128, {"attention": 1}),
        ("dec.8x8_up", 128, 128, {"taps": 2, "skip": 0}),
        ("dec.8x8_block0", 192, 64, {}),
        ("dec.8x8_block1", 128, 64, {}),
    ]
    for name, n_in, n_out, kind in rows:
        shapes |= edm_block(name, n_in, n_out, 256, 2, **kind)
    return shapes | affine("out_norm", 64) | affine("out_conv", 3, 64, 3, 3)


def res_block(name: str, n_in: int, n_out: int, scales: int, width: int) -> Shapes:
    """A ResBlock of OpenAI's, for a conditioning vector of `width`."""
    shapes = affine(f"{name}.in_layers.0", n_in) | affine(f"{name}.in_layers.2", n_out, n_in, 3, 3)
    shapes |= affine(f"{name}.emb_layers.1", scales * n_out, width)
    shapes |= affine(f"{name}.out_layers.0", n_out) | affine(f"{name}.out_layers.3", n_out, n_out, 3, 3)
    return shapes | (affine(f"{name}.skip_connection", n_out, n_in, 1, 1) if n_in != n_out else {})


def attention_block(name: str, n: int) -> Shapes:
    """An AttentionBlock of OpenAI's."""
    shapes = affine(f"{name}.norm", n) | affine(f"{name}.qkv", 3 * n, n, 1, 1)
    return shapes | affine(f"{name}.proj_out", n, n, 1, 1)


def unetmodel(n: int = 256, scales: int = 2, classes: int = 4, base: int = 128) -> Shapes:
    """UNetModel of UNETMODEL_SIZE; with (128, 1, 0) of PLAIN_SIZE."""
    width = 4 * base
    shapes = affine("time_embed.0", width, base) | affine("time_embed.2", width, width)
    shapes |= {"label_emb.weight": (classes, width)} if classes else {}
    shapes |= affine("input_blocks.0.0", base, 3, 3, 3)
    rows = [
        ("input_blocks.1.0", base, base),
        ("input_blocks.2.0", base, base),
        ("input_blocks.3.0", base, n),
        ("middle_block.0", n, n),
        ("middle_block.2", n, n),
        ("output_blocks.0.0", n + n, n),
        ("output_blocks.1.0", n + base, n),
        ("output_blocks.1.2", n, n),
        ("output_blocks.2.0", n + base, base),
        ("output_blocks.3.0", 2 * base, base),
    ]
    for name, n_in, n_out in rows:
        shapes |= res_block(name, n_in, n_out, scales, width)
    for name in ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"):
        shapes |= attention_block(name, n)
    return shapes | affine("out.0", base) | affine("out.2", 3, base, 3, 3)
