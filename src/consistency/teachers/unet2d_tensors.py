"""Tensors of a UNet2DModel of the diffusers library: their names and places, and ours."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from consistency.nets.layers import Attention
from consistency.teachers.unet2d import LAYOUTS, UNet

# Our names -> theirs, of both networks, after the rules of a `Layout`, in this order.
COMMON = (
    (r"^conditioning\.layer0\.", "time_embedding.linear_1."),
    (r"^conditioning\.layer1\.", "time_embedding.linear_2."),
    (r"^conditioning\.label\.", "class_embedding."),
    (r"^stem\.", "conv_in."),
    (r"^head\.0\.", "conv_norm_out."),
    (r"^head\.2\.", "conv_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.qkv\.", r"\1.to_q."),  # and to_k, to_v: see `thirds`
    (r"(attentions\.\d+)\.proj\.", r"\1.to_out.0."),
    (r"\.norm1\.", ".norm2."),
    (r"\.norm0\.", ".norm1."),
    (r"\.conv1\.", ".conv2."),
    (r"\.conv0\.", ".conv1."),
    (r"\.affine\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
)


def names(net: UNet) -> dict[str, str]:
    """{our name: theirs} of each tensor; q stands for q, k and v where we have them in one."""
    rules = (*LAYOUTS[type(net)].rules(net), *COMMON)
    return {name: renamed_tensor(name, rules) for name in net.state_dict()}


def renamed_tensor(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    """A tensor's name after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def joint_heads(net: nn.Module) -> dict[str, int]:
    """{our name: heads} of the tensors that hold q, k and v."""
    found = {name: m.heads for name, m in net.named_modules() if isinstance(m, Attention)}
    return {f"{name}.qkv.{leaf}": heads for name, heads in found.items() for leaf in ("weight", "bias")}


def thirds(name: str) -> list[str]:
    """Their names of q, k and v, from that of q."""
    return [name.replace(".to_q.", f".to_{part}.") for part in "qkv"]


def their_weights(net: UNet) -> dict[str, Tensor]:
    """The weights of a network as those of a UNet2DModel: no number changes, some change places."""
    found, theirs, heads = {}, names(net), joint_heads(net)
    for name, tensor in net.state_dict().items():
        flat = tensor.flatten(1) if ".attention." in name and tensor.ndim > 1 else tensor  # 1x1 convolutions
        if name in heads:
            parts = rearrange(flat, "(n c p) ... -> p (n c) ...", n=heads[name], p=3)
            found |= dict(zip(thirds(theirs[name]), parts, strict=True))
        else:
            found[theirs[name]] = flat
    return {name: tensor.contiguous() for name, tensor in found.items()}


def here(net: UNet, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their weights under our names and in our places; what has none keeps its name."""
    state, ours = dict(state), {its: our for our, its in names(net).items()}
    for name, heads in joint_heads(net).items():
        parts = thirds(names(net)[name])
        if len({tuple(state[part].shape) for part in parts if part in state}) == 1 and {*parts} <= {*state}:
            qkv = torch.stack([state.pop(part) for part in parts])
            if qkv.shape[1] % heads == 0:
                state[parts[0]] = rearrange(qkv, "p (n c) ... -> (n c p) ...", n=heads)
    found, shapes = {ours.get(name, name): t for name, t in state.items()}, net.state_dict()
    for name, t in found.items():
        if ".attention." in name and t.ndim == 2 and name in shapes and shapes[name].ndim == 4:
            found[name] = t[:, :, None, None]
    return found
