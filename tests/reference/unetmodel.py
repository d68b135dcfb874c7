"""OpenAI's UNetModel (consistency_models), restated from its definition as a function of its state_dict.

For the layout of `tests.reference.teachers.unetmodel` alone. Every normalisation has 32 groups.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]


def unetmodel(state: State, x: Tensor, time: Tensor, head_channels: int, groups: int = 32) -> Tensor:
    """The output for images x [B, 3, 8, 8] at rescaled times [B], without classes."""

    def layer(name: str, h: Tensor) -> Tensor:
        weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
        return F.linear(h, weight, bias) if weight.ndim == 2 else F.conv2d(h, weight, bias, padding="same")

    def norm(name: str, h: Tensor) -> Tensor:
        return F.group_norm(h, groups, state[f"{name}.weight"], state[f"{name}.bias"], 1e-5)

    def block(name: str, h: Tensor, resize: float = 1) -> Tensor:
        inner = F.silu(norm(f"{name}.in_layers.0", h))
        if resize == 2:
            inner, h = (F.interpolate(part, scale_factor=2, mode="nearest") for part in (inner, h))
        elif resize == 0.5:
            inner, h = (F.avg_pool2d(part, 2) for part in (inner, h))
        inner = layer(f"{name}.in_layers.2", inner)
        inner = inner + layer(f"{name}.emb_layers.1", F.silu(emb))[:, :, None, None]
        inner = layer(f"{name}.out_layers.3", F.silu(norm(f"{name}.out_layers.0", inner)))
        skip = f"{name}.skip_connection"
        return inner + (layer(skip, h) if f"{skip}.weight" in state else h)

    def attention(name: str, h: Tensor) -> Tensor:
        B, C, H, W = h.shape
        pixels = norm(f"{name}.norm", h).flatten(2)
        weight = state[f"{name}.qkv.weight"].flatten(1)
        qkv = weight @ pixels + state[f"{name}.qkv.bias"][:, None]
        q, k, v = (part.reshape(B, -1, head_channels, H * W) for part in qkv.chunk(3, 1))
        scores = torch.einsum("bhct,bhcs->bhts", q, k) / math.sqrt(head_channels)
        received = torch.einsum("bhts,bhcs->bhct", scores.softmax(-1), v).reshape(B, C, H * W)
        projected = state[f"{name}.proj_out.weight"].flatten(1) @ received
        return h + (projected + state[f"{name}.proj_out.bias"][:, None]).reshape(B, C, H, W)

    half = len(state["input_blocks.0.0.bias"]) // 2
    angles = time[:, None] * torch.exp(-math.log(10000) * torch.arange(half, dtype=time.dtype) / half)
    emb = torch.cat([angles.cos(), angles.sin()], 1)
    emb = layer("time_embed.2", F.silu(layer("time_embed.0", emb)))
    skips = [h := layer("input_blocks.0.0", x)]
    skips.append(h := block("input_blocks.1.0", h))
    skips.append(h := block("input_blocks.2.0", h, 0.5))
    skips.append(h := attention("input_blocks.3.1", block("input_blocks.3.0", h)))
    h = block("middle_block.2", attention("middle_block.1", block("middle_block.0", h)))
    for i in range(4):
        h = block(f"output_blocks.{i}.0", torch.cat([h, skips.pop()], 1))
        h = attention(f"output_blocks.{i}.1", h) if i < 2 else h
        h = block(f"output_blocks.{i}.2", h, 2) if i == 1 else h
    return layer("out.2", F.silu(norm("out.0", h)))
