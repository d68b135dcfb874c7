"""Folders of the diffusers library: config.json, scheduler_config.json and safetensors, as a denoiser.

Read as plain files: the library is not needed, and nothing in them is run.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from consistency.errors import UserError, nearest
from consistency.model.coordinates import DDPM
from consistency.model.denoiser import Denoiser
from consistency.model.precond import Epsilon, Precond, Velocity
from consistency.nets.ddpm import Attention, DDPMUNet
from consistency.nets.layers import PositionalEmbedding
from consistency.teachers.weights import damaged, load_into

Config = dict[str, Any]
Method = TypeVar("Method")

WEIGHTS = "diffusion_pytorch_model.safetensors"

# What config.json must say, and shapes do not show; the first is what a silent file means.
FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu", "swish"),
    "add_attention": (True,),
    "attn_norm_num_groups": (None,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_type": ("conv",),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}

# field of config.json -> what a silent file means, and our key.
CHOSEN: dict[str, tuple[Any, str]] = {
    "attention_head_dim": (8, "net.head_channels"),
    "down_block_types": (("DownBlock2D", *["AttnDownBlock2D"] * 3), "net.attention"),
    "downsample_padding": (1, "net.padding"),
    "flip_sin_to_cos": (True, "net.embedding.flip"),
    "freq_shift": (0, "net.embedding.shift"),
    "norm_eps": (1e-5, "net.eps"),
    "norm_num_groups": (32, "net.groups"),
    "num_class_embeds": (None, "data.conditional"),
    "up_block_types": ((*["AttnUpBlock2D"] * 3, "UpBlock2D"), "net.attention"),
}

BETAS: dict[str, Callable[..., DDPM]] = {
    "linear": DDPM.linear,
    "scaled_linear": DDPM.scaled_linear,
    "squaredcos_cap_v2": lambda T, first, last: DDPM.cosine(T),
}
PREDICTIONS: dict[str, Callable[[DDPM], Precond]] = {"epsilon": Epsilon, "v_prediction": Velocity}

# Our names -> theirs, in this order.
RENAMED = (
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.attention\.", r"\1_blocks.\2.attentions.\3."),
    (r"^(down|up)\.(\d+)\.blocks\.(\d+)\.", r"\1_blocks.\2.resnets.\3."),
    (r"^(down|up)\.(\d+)\.resample\.1\.", r"\1_blocks.\2.\1samplers.0.conv."),
    (r"^middle\.(\d)\.attention\.", r"mid_block.attentions.\1."),
    (r"^middle\.(\d)\.", r"mid_block.resnets.\1."),
    (r"^conditioning\.layer0\.", "time_embedding.linear_1."),
    (r"^conditioning\.layer1\.", "time_embedding.linear_2."),
    (r"^conditioning\.label\.", "class_embedding."),
    (r"^stem\.", "conv_in."),
    (r"^head\.0\.", "conv_norm_out."),
    (r"^head\.2\.", "conv_out."),
    (r"\.norm1\.", ".norm2."),
    (r"\.norm0\.", ".norm1."),
    (r"\.conv1\.", ".conv2."),
    (r"\.conv0\.", ".conv1."),
    (r"\.affine\.", ".time_emb_proj."),
    (r"\.skip\.", ".conv_shortcut."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.(query|key|value)\.", lambda m: f"{m[1]}.to_{m[2][0]}."),
    (r"(attentions\.\d+)\.out\.", r"\1.to_out.0."),
)
# Names of attention before diffusers 0.15 -> those since.
MODERN = (
    (r"\.(query|key|value)\.", lambda m: f".to_{m[1][0]}."),
    (r"\.proj_attn\.", ".to_out.0."),
)


def diffusers(path: str | Path, net: nn.Module) -> Denoiser:
    """The denoiser in a folder of diffusers, such as google/ddpm-cifar10-32, frozen.

    Args:
        path: the folder, flat or with unet/ and scheduler/ in it.
        net: a DDPMUNet of the same settings.

    Raises:
        UserError: a file is missing or damaged, says something else than `net`, or asks for what is not here.
    """
    if not isinstance(net, DDPMUNet):
        raise UserError(f"teacher=diffusers needs net=ddpm_cifar10, not a {type(net).__name__}")
    folder = part(Path(path), "unet", "config.json")
    check_settings(folder / "config.json", net)
    scheduler = part(Path(path), "scheduler", "scheduler_config.json") / "scheduler_config.json"
    precond = read_scheduler(scheduler)
    load_weights(folder, net)
    return Denoiser(net, precond).requires_grad_(False).eval()


def part(path: Path, name: str, file: str) -> Path:
    """The folder that holds `file`: `path` or path/name."""
    for folder in (path / name, path):
        if (folder / file).is_file():
            return folder
    raise UserError(
        f"teacher.path={path}: neither {file} nor {name}/{file}; give a local folder of diffusers"
    )


def read_json(file: Path) -> Config:
    """A JSON file that holds one object."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise damaged(file) from error
    if not isinstance(content, dict):
        raise damaged(file)
    return content


def read_scheduler(file: Path) -> Precond:
    """What the network's output means, by its scheduler.

    Raises:
        UserError: noise levels or a prediction that are not supported, by their key in the file.
    """
    config = read_json(file)
    prediction = supported(file, "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS)
    if config.get("rescale_betas_zero_snr"):
        raise UserError(f"teacher.path={file}: rescale_betas_zero_snr ends at infinite noise; not supported")
    return prediction(read_levels(file, config))


def read_levels(file: Path, config: Config) -> DDPM:
    """The chain of noise levels.

    Raises:
        UserError: an unknown beta_schedule, or numbers that make no chain.
    """
    T, betas = config.get("num_train_timesteps", 1000), config.get("trained_betas")
    first, last = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    law = None if betas else supported(file, "beta_schedule", config.get("beta_schedule"), BETAS)
    try:
        return law(T, first, last) if law else DDPM(tuple(betas or ()))
    except (TypeError, ValueError, RuntimeError) as error:
        keys = "num_train_timesteps, beta_start and beta_end" if law else "trained_betas"
        raise UserError(f"teacher.path={file}: {keys} do not make a chain of β between 0 and 1") from error


def supported(file: Path, field: str, value: Any, known: Mapping[str, Method]) -> Method:
    """What the value of `field` chooses from the known."""
    name = str(value)
    if name not in known:
        raise UserError(f"teacher.path={file}: {field}={name} is not supported; {nearest(name, known)}")
    return known[name]


def check_settings(file: Path, net: DDPMUNet) -> None:
    """Compare what the file says and tensors do not show.

    Raises:
        UserError: the first field that disagrees with `net`, and the key that changes it.
    """
    config = read_json(file)
    said = config.get("_class_name", "UNet2DModel")
    if said != "UNet2DModel":
        raise UserError(f"teacher.path={file} is a {said}: only UNet2DModel is supported")
    for field, allowed in FIXED.items():
        value = config.get(field, allowed[0])
        if value not in allowed:
            raise UserError(f"teacher.path={file}: {field}={value} is not supported, only {allowed[0]}")
    ours = settings(net)
    for field, (default, key) in CHOSEN.items():
        value = config.get(field, default)
        value = tuple(value) if isinstance(value, list) else value
        if value != ours[field]:
            raise UserError(f"teacher.path={file}: {field} is {value}, but {ours[field]} in net; set {key}")


def settings(net: DDPMUNet) -> Config:
    """What config.json says of a network like this one."""
    norm, embedding, label = net.head[0], net.conditioning.embedding, net.conditioning.label
    positional = isinstance(embedding, PositionalEmbedding)
    return {
        "attention_head_dim": net.head_channels,
        "down_block_types": tuple(kind(stage, "DownBlock2D") for stage in net.down),
        "downsample_padding": net.padding,
        "flip_sin_to_cos": embedding.flip if positional else "no sinusoid",
        "freq_shift": embedding.shift if positional else "no sinusoid",
        "norm_eps": norm.eps,
        "norm_num_groups": norm.num_groups,
        "num_class_embeds": label.num_embeddings if label else None,
        "up_block_types": tuple(kind(stage, "UpBlock2D") for stage in net.up),
    }


def kind(stage: nn.Module, name: str) -> str:
    """The type of a stage as diffusers calls it."""
    return f"Attn{name}" if any(isinstance(m, Attention) for m in stage.modules()) else name


def load_weights(folder: Path, net: DDPMUNet) -> None:
    """Load the safetensors of the folder.

    Raises:
        UserError: there are none, they are damaged, or of another network.
    """
    file = folder / WEIGHTS
    names = {ours: renamed(ours, RENAMED) for ours in net.state_dict()}
    back = {theirs: ours for ours, theirs in names.items()}
    state = {renamed(name, MODERN): tensor for name, tensor in read_safetensors(file).items()}
    load_into(net, {back.get(name, name): tensor for name, tensor in state.items()}, file, names)


def renamed(name: str, rules: tuple[tuple[str, Any], ...]) -> str:
    """A tensor's name after all rules."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file.

    Raises:
        UserError: it is missing or damaged.
    """
    if not file.is_file():
        raise UserError(
            f"teacher.path={file}: no such file; a .bin may hold code and is not read: fetch the "
            ".safetensors of the same page, or save the tensors of the .bin with safetensors.torch.save_file"
        )
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise damaged(file) from error
