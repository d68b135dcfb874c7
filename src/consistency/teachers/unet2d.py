"""The config and the stages of diffusers' UNet2DModel, for the networks of this project that equal one.

Known by their definition (diffusers 0.42), not by the library, which is needed nowhere here. Its tensors are
in `consistency.teachers.unet2d_tensors`.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, NamedTuple

from torch import nn

from consistency.nets import adm, ddpm
from consistency.nets.adm import ADM
from consistency.nets.ddpm import DDPMUNet
from consistency.nets.layers import PositionalEmbedding
from consistency.nets.modulation import Added, ScaleShift

Config = dict[str, Any]
UNet = DDPMUNet | ADM  # those of our networks that can be one

# What a config.json means that does not say; of the fields that tensors do not show.
SILENT: Config = {
    "act_fn": "silu",
    "add_attention": True,
    "attention_head_dim": 8,
    "attn_norm_num_groups": None,
    "center_input_sample": False,
    "class_embed_type": None,
    "down_block_types": ("DownBlock2D", *["AttnDownBlock2D"] * 3),
    "downsample_padding": 1,
    "downsample_type": "conv",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2D",
    "norm_eps": 1e-5,
    "norm_num_groups": 32,
    "num_class_embeds": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "up_block_types": (*["AttnUpBlock2D"] * 3, "UpBlock2D"),
    "upsample_type": "conv",
}
# What it must say of any network here.
ALWAYS = ("act_fn", "add_attention", "center_input_sample", "class_embed_type", "mid_block_scale_factor")
ALWAYS += ("mid_block_type", "time_embedding_type")
# All that it may say: of the rest, tensors show the sizes, and some are of training or of learned embeddings.
FIELDS = {*SILENT, "in_channels", "out_channels", "sample_size", "block_out_channels", "layers_per_block"}
FIELDS |= {"dropout", "num_train_timesteps", "time_embedding_dim"}
SYNONYMS = {"swish": "silu"}

# field -> our key.
KEYS = {
    "attention_head_dim": "net.head_channels",
    "down_block_types": "net.attention",
    "flip_sin_to_cos": "net.embedding.flip",
    "freq_shift": "net.embedding.shift",
    "num_class_embeds": "data.conditional",
    "up_block_types": "net.attention",
}

# Our names of DDPMUNet -> theirs, in this order.
RENAMED = (
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.resample\.1\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^middle\.(\d)\.attention\.", r"mid_block.attentions.\1."),
    (r"^middle\.(\d)\.", r"mid_block.resnets.\1."),
    (r"(attentions\.\d+)\.(query|key|value)\.", lambda m: f"{m[1]}.to_{m[2][0]}."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)


class Stage(NamedTuple):
    """One resolution of a network, on its way down or up."""

    blocks: Sequence[tuple[str, Any]]  # our name, block
    resample: Sequence[tuple[str, Any]]  # what leads to the next resolution; none at the last


class Way(NamedTuple):
    """The stages of a network, on its way down and up."""

    down: Sequence[Stage]
    up: Sequence[Stage]


@dataclass(frozen=True)
class Layout:
    """How a network of this project maps to a UNet2DModel.

    Args:
        ways: network -> its stages.
        says: network -> the fields of config.json that it alone decides.
        types: of a stage without attention, on the way down and up.
        rules: our names -> theirs, before those of every network.
        keys: field -> our key, beside those of every network.
    """

    ways: Callable[[Any], Way]
    says: Callable[[Any], Config]
    types: tuple[str, str]
    rules: Callable[[Any], tuple[tuple[str, Any], ...]]
    keys: Mapping[str, str]


def of_ddpm(net: DDPMUNet) -> Config:
    """Fields of config.json."""
    return {
        "resnet_time_scale_shift": "default",
        "downsample_type": "conv",
        "upsample_type": "conv",
        "downsample_padding": net.padding,
        "attention_head_dim": net.head_channels,
    }


def of_adm(net: ADM) -> Config:
    """Fields of config.json."""
    block: Any = net.decoder[0]
    shifts = {Added: "default", ScaleShift: "scale_shift"}
    return {
        "resnet_time_scale_shift": shifts.get(type(block.modulation), block.modulation),
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "attention_head_dim": block.attention.qkv.in_channels // block.attention.heads,
    }


def ways_of_ddpm(net: DDPMUNet) -> Way:
    """The stages of a DDPM U-Net."""

    def stage(name: str, part: Any) -> Stage:
        blocks = [(f"{name}.blocks.{j}", block) for j, block in enumerate(part.blocks)]
        return Stage(blocks, [(f"{name}.resample", part.resample)] if part.resample else [])

    down = [stage(f"down.{i}", part) for i, part in enumerate(net.down)]
    return Way(down, [stage(f"up.{i}", part) for i, part in enumerate(net.up)])


def ways_of_adm(net: ADM) -> Way:
    """The stages of an ADM network; a block that resamples ends a stage."""

    def stages(name: str, blocks: Sequence[nn.Module], first: int) -> list[Stage]:
        found: list[Any] = [Stage([], [])]
        for i, block in enumerate(blocks, first):
            resamples = not isinstance(block.resample, nn.Identity)
            (found[-1].resample if resamples else found[-1].blocks).append((f"{name}.{i}", block))
            found += [Stage([], [])] if resamples else []
        return found

    return Way(stages("encoder", list(net.encoder), 0), stages("decoder", list(net.decoder[2:]), 2))


def rules_of_adm(net: ADM) -> tuple[tuple[str, Any], ...]:
    """Rules for the names of ADM's blocks; diffusers has a list for the middle and one for each stage."""
    places = {"decoder.0": ("mid_block", "resnets.0"), "decoder.1": ("mid_block", "resnets.1")}
    for side, stages in ways_of_adm(net)._asdict().items():
        for i, (blocks, resample) in enumerate(stages):
            there = f"{side}_blocks.{i}"
            places |= {name: (there, f"resnets.{j}") for j, (name, _) in enumerate(blocks)}
            places |= {name: (there, f"{side}samplers.0") for name, _ in resample}

    def moved(match: re.Match[str]) -> str:
        stage, place = places[match[1]]
        return f"{stage}.{place.replace('resnets', 'attentions') if match[2] else place}."

    return ((r"^((?:encoder|decoder)\.\d+)\.(attention\.)?", moved),)


LAYOUTS: dict[type, Layout] = {
    DDPMUNet: Layout(
        ways_of_ddpm,
        of_ddpm,
        ("DownBlock2D", "UpBlock2D"),
        lambda net: RENAMED,
        {"downsample_padding": "net.padding", "norm_eps": "net.eps", "norm_num_groups": "net.groups"},
    ),
    ADM: Layout(
        ways_of_adm,
        of_adm,
        ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
        rules_of_adm,
        {"norm_num_groups": "net.groups", "resnet_time_scale_shift": "net.scale_shift"},
    ),
}


def fixed_config(net: UNet) -> Config:
    """The fields of config.json for a network of this kind, except sizes."""
    layout, embedding, label = LAYOUTS[type(net)], net.conditioning.embedding, net.conditioning.label
    groups, flip, shift = one_or_all(norms(net, "num_groups")), "no sinusoid", "no sinusoid"
    if isinstance(embedding, PositionalEmbedding):
        flip, shift = embedding.flip, embedding.shift
    types = [
        tuple(f"Attn{side}Block2D" if attends(stage) else plain for stage in stages)
        for side, plain, stages in zip(("Down", "Up"), layout.types, layout.ways(net), strict=True)
    ]
    return {
        **{field: SILENT[field] for field in ALWAYS},
        **layout.says(net),
        "down_block_types": types[0],
        "up_block_types": types[1],
        "flip_sin_to_cos": flip,
        "freq_shift": shift,
        "norm_eps": one_or_all(norms(net, "eps")),
        "norm_num_groups": groups,
        "attn_norm_num_groups": groups,
        "num_class_embeds": label.num_embeddings if label else None,
    }


def tensor_sizes(net: UNet) -> Config:
    """The other fields of config.json: the sizes, which tensors show."""
    down = LAYOUTS[type(net)].ways(net).down
    return {
        "in_channels": net.stem.in_channels,
        "out_channels": net.stem.in_channels,
        "block_out_channels": [stage.blocks[0][1].conv0.out_channels for stage in down],
        "layers_per_block": len(down[0].blocks),
    }


def why_not_unet2d(net: nn.Module) -> str | None:
    """The reason why this network is no UNet2DModel; None where it is one."""
    if not isinstance(net, UNet):
        return f"a {type(net).__name__} is none"
    embedding, first = net.conditioning.embedding, tensor_sizes(net)["block_out_channels"][0]
    if not isinstance(embedding, PositionalEmbedding) or embedding.channels != first or first % 2:
        return "net.embedding is not the sinusoids that it has"
    if net.stem.out_channels != first:
        return "net.multipliers does not begin with 1"
    said = fixed_config(net)
    if not isinstance(said["norm_num_groups"], int):
        return "its normalisations have different numbers of groups"
    if not isinstance(said["resnet_time_scale_shift"], str):
        return "it has no such net.modulation"
    return None


def differing_field(config: Config, net: UNet) -> Iterator[tuple[str, Any, Any, str | None]]:
    """Yield (field, value there, value here, key here or None) where a config is of another network."""
    keys = KEYS | dict(LAYOUTS[type(net)].keys)
    there = {field: json_value(config.get(field, silent)) for field, silent in SILENT.items()}
    if there["attn_norm_num_groups"] is None and there["resnet_time_scale_shift"] == "default":
        there["attn_norm_num_groups"] = there["norm_num_groups"]  # the library's rule
    for field, here in fixed_config(net).items():
        if there[field] != here:
            yield field, there[field], here, keys.get(field)


def json_value(value: Any) -> Any:
    """A value in the form that JSON would have, for comparisons."""
    value = tuple(value) if isinstance(value, list) else value
    return SYNONYMS.get(value, value) if isinstance(value, str) else value


def attends(stage: Stage) -> bool:
    """Whether the blocks of a stage have attention."""
    modules = chain.from_iterable(block.modules() for _, block in stage.blocks)
    return any(isinstance(module, adm.Attention | ddpm.Attention) for module in modules)


def norms(net: nn.Module, field: str) -> set[Any]:
    """The values of a field over all normalisations."""
    return {getattr(module, field) for module in net.modules() if isinstance(module, nn.GroupNorm)}


def one_or_all(values: set[Any]) -> Any:
    """The only value, or all of them."""
    return next(iter(values)) if len(values) == 1 else tuple(sorted(values))
