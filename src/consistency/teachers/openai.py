"""Networks of OpenAI's consistency_models (2303.01469): ADM for ImageNet and LSUN, in EDM's coordinates."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, Boundary
from consistency.nets.adm import ADM
from consistency.nets.layers import Attention
from consistency.nets.resampling import Up
from consistency.nets.second import to_one_time
from consistency.process.notices import notice
from consistency.teachers.untold import always, check_groups
from consistency.teachers.weights import REMEDY, load_into, read_pt, rename_tensors, spelled

Pairs = Iterator[tuple[str, str]]  # modules: our name, the file's
TIME_SCALE = 250.0  # the network is given 1000 ln(σ)/4
PUBLISHED = 64  # channels of a head of attention

ENDS = {
    "conditioning.layer0": "time_embed.0",
    "conditioning.layer1": "time_embed.2",
    "conditioning.label": "label_emb",
    "conditioning.augment": "augment",  # which no file has
    "stem": "input_blocks.0.0",
    "head.0": "out.0",
    "head.2": "out.2",
}
RESIDUAL = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}


def openai(path: str | Path, net: nn.Module) -> Denoiser:
    """The teacher of a `.pt` file, `edm_*`, as a frozen denoiser in evaluation mode.

    What is in such a file is a network and no more: whether it was trained as a denoiser or as a consistency
    function is for the user to say, by this function or by `openai_consistency`.

    Args:
        path: a state_dict of UNetModel, such as edm_imagenet64_ema.pt; of any precision.
        net: the network it belongs to, whose weights are replaced.

    Raises:
        UserError: the file is missing, damaged, holds anything else, or belongs to another network, such as
            one that also learns a variance or has another number of groups in its normalisations.
    """
    load_unet(path, net)
    return Denoiser(net, EDM(time_scale=TIME_SCALE)).requires_grad_(False).eval()


def openai_consistency(path: str | Path, net: nn.Module) -> Consistency:
    """The consistency function of a `.pt` file, `cd_*` or `ct_*`; otherwise as `openai`."""
    load_unet(path, net)
    return Consistency(net, Boundary(time_scale=TIME_SCALE)).requires_grad_(False).eval()


def load_unet(path: str | Path, net: nn.Module) -> None:
    """Replace the weights of net by those of a file; see `openai`."""
    file = read_pt(path)
    if not isinstance(file, dict) or not all(isinstance(v, Tensor) for v in file.values()):
        raise UserError(
            f"teacher.path={path} is no state_dict; use a .pt file of OpenAI's consistency_models"
        )
    if not isinstance(net, ADM):
        raise UserError(
            f"teacher.path={path} is read into an ADM and net is a {type(net).__name__}; {REMEDY}"
        )
    to_one_time(net)
    names = spelled(net, dict(pairs(net)))
    state = rename_tensors(file, names)
    check_variance(net, state, path)
    turn_attention(net, state)
    load_into(net, state, path, names)
    check_groups(net, always, path, "set net.groups=32")
    say_heads(net, path)


def check_variance(net: ADM, state: dict[str, Tensor], path: str | Path) -> None:
    """Refuse a network with twice as many channels at its end: a diffusion model with a learned variance."""
    head, channels = state.get("head.2.weight"), net.stem.in_channels
    if head is not None and len(head) == 2 * channels:
        raise UserError(
            f"teacher.path={path} has {len(head)} output channels for images of {channels}: it also predicts "
            "a variance (learn_sigma), as networks of guided-diffusion do, which are trained on other noise "
            "levels; use a file of openai/consistency_models, or another teacher"
        )


def say_heads(net: ADM, path: str | Path) -> None:
    """Say the width of a head of attention where it is not the published 64: no tensor shows it."""
    widths = {m.qkv.in_channels // m.heads for m in net.modules() if isinstance(m, Attention)}
    if widths - {PUBLISHED}:
        said = ", ".join(map(str, sorted(widths)))
        notice(
            f"teacher.path={path} does not say how wide its heads of attention are: {said} channels by "
            f"net.head_channels, and {PUBLISHED} in all published files"
        )


def pairs(net: ADM) -> Pairs:
    """UNetModel's names of our modules."""
    yield from ENDS.items()
    for i, block in enumerate(net.encoder):
        yield from layers(f"encoder.{i}", f"input_blocks.{i + 1}", block)
    yield from layers("decoder.0", "middle_block", net.decoder[0])
    yield from layers("decoder.1", "middle_block", net.decoder[1], first=2)
    j, used = -1, 0
    for i, block in enumerate(net.decoder[2:], 2):  # a block that resamples ends the list it stands in
        j, first = (j, used) if isinstance(block.resample, Up) else (j + 1, 0)
        yield from layers(f"decoder.{i}", f"output_blocks.{j}", block, first)
        used = 1 if block.attention is None else 2


def layers(ours: str, its: str, block: Any, first: int = 0) -> Pairs:
    """A residual block, which stands at place `first` of a list, and its attention behind it."""
    yield from ((f"{ours}.{a}", f"{its}.{first}.{b}") for a, b in RESIDUAL.items())
    if block.attention is not None:
        yield from ((f"{ours}.attention.{a}", f"{its}.{first + 1}.{b}") for a, b in ATTENTION.items())


def turn_attention(net: ADM, state: dict[str, Tensor]) -> None:
    """Put q, k, v of all heads, which stand there one after the other, in our order: head, unit, q k or v."""
    for name, layer in net.named_modules():
        for key in (f"{name}.qkv.weight", f"{name}.qkv.bias"):
            if isinstance(layer, Attention) and key in state and len(state[key]) == 3 * layer.qkv.in_channels:
                state[key] = rearrange(state[key], "(p n c) ... -> (n c p) ...", p=3, n=layer.heads)
