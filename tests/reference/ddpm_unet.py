"""Outputs of diffusers' `UNet2DModel` (0.42.1) for weights that anyone can write down, and its names.

Its weights were given the values of `edm_unet.fill`, by this project's names of them, in float64. Its
features of the index are computed in float32, hence six digits.
"""

import torch
from torch import Tensor, nn

SHAPE = (3, 8, 8)
SIZE = {"shape": SHAPE, "channels": 8, "multipliers": (1, 2, 2), "blocks": 1, "attention": (4,), "groups": 4}

# config.json of google/ddpm-cifar10-32, with the sizes of SIZE.
DDPM = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [8, 16, 16],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 1,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-06,
    "norm_num_groups": 4,
    "out_channels": 3,
    "sample_size": 8,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
# The same with the library's defaults where they differ, and with classes.
DEFAULTS = DDPM | {
    "attention_head_dim": 8,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-05,
    "num_class_embeds": 4,
}

# scheduler_config.json of google/ddpm-cifar10-32.
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "_diffusers_version": "0.1.1",
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "clip_sample": True,
    "num_train_timesteps": 1000,
    "trained_betas": None,
    "variance_type": "fixed_large",
}

# Pixel (2, 3) of the six channels of both images: DDPM without labels, DEFAULTS with them.
DDPM_OUTPUT = [-0.090594, 0.036693, 0.144544, -0.022742, 0.283524, 0.626732]
DEFAULTS_OUTPUT = [-0.285006, -0.290598, -0.321542, -0.272682, -0.462866, -0.512883]

# Module of ours -> module of theirs.
MODULES = {
    "stem": "conv_in",
    "head.0": "conv_norm_out",
    "head.2": "conv_out",
    "conditioning.layer0": "time_embedding.linear_1",
    "conditioning.layer1": "time_embedding.linear_2",
    "conditioning.label": "class_embedding",
    "down.0.blocks.0": "down_blocks.0.resnets.0",
    "down.0.resample.1": "down_blocks.0.downsamplers.0.conv",
    "down.1.blocks.0": "down_blocks.1.resnets.0",
    "down.1.blocks.0.attention": "down_blocks.1.attentions.0",
    "down.1.resample.1": "down_blocks.1.downsamplers.0.conv",
    "down.2.blocks.0": "down_blocks.2.resnets.0",
    "middle.0": "mid_block.resnets.0",
    "middle.0.attention": "mid_block.attentions.0",
    "middle.1": "mid_block.resnets.1",
    "up.0.blocks.0": "up_blocks.0.resnets.0",
    "up.0.blocks.1": "up_blocks.0.resnets.1",
    "up.0.resample.1": "up_blocks.0.upsamplers.0.conv",
    "up.1.blocks.0": "up_blocks.1.resnets.0",
    "up.1.blocks.0.attention": "up_blocks.1.attentions.0",
    "up.1.blocks.1": "up_blocks.1.resnets.1",
    "up.1.blocks.1.attention": "up_blocks.1.attentions.1",
    "up.1.resample.1": "up_blocks.1.upsamplers.0.conv",
    "up.2.blocks.0": "up_blocks.2.resnets.0",
    "up.2.blocks.1": "up_blocks.2.resnets.1",
}
IN_BLOCK = {"norm0": "norm1", "conv0": "conv1", "norm1": "norm2", "conv1": "conv2"}
IN_BLOCK |= {"affine": "time_emb_proj", "skip": "conv_shortcut"}
IN_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"}
IN_OLD_ATTENTION = {
    "norm": "group_norm",
    "query": "query",
    "key": "key",
    "value": "value",
    "out": "proj_attn",
}


def name_there(name: str, old: bool = False) -> str:
    """A tensor's name in the file; attention was called otherwise before version 0.15."""
    module, tensor = name.rsplit(".", 1)
    if module in MODULES:
        return f"{MODULES[module]}.{tensor}"
    block, layer = module.rsplit(".", 1)
    attention = IN_OLD_ATTENTION if old else IN_ATTENTION
    layers = attention if block.endswith("attention") else IN_BLOCK
    return f"{MODULES[block]}.{layers[layer]}.{tensor}"


def inputs() -> tuple[Tensor, Tensor, Tensor]:
    """x, the index of its level, label."""
    x = torch.arange(384, dtype=torch.float64).sin().reshape(2, *SHAPE)
    return x, torch.tensor([2.5, 41.25], dtype=torch.float64), torch.tensor([1, 3])


def ddim(net: nn.Module, z: Tensor, indices: list[int]) -> Tensor:
    """Deterministic DDIM (2010.02502, eq. 12 with no noise) in x_t = √ᾱ x_0 + √(1-ᾱ) ε.

    With the betas of SCHEDULER. Starts from x_T = z at the first index; behind the last one ᾱ = 1.
    """
    bars = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    x = z
    for j, bar in zip(indices, [*(bars[i] for i in indices[1:]), torch.tensor(1.0)], strict=True):
        eps = net(x, torch.full((len(x),), float(j), dtype=x.dtype))
        clean = (x - (1 - bars[j]).sqrt() * eps) / bars[j].sqrt()
        x = bar.sqrt() * clean + (1 - bar).sqrt() * eps
    return x
