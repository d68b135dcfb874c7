"""Folders of the diffusers library (config.json, scheduler_config.json and safetensors) as maps.

Read as plain files: the library is not needed, and nothing in them is run. Folders of `export=diffusers` have
a checksum of tensors, settings and noise levels in the metadata of the tensors' file; others have none.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.checksum import content_sha256
from consistency.files.config import checked_config
from consistency.files.paths import printable_path
from consistency.files.upgrade import upgrade_denoiser
from consistency.model.maps import Consistency, Denoiser, Map
from consistency.teachers import unet2d, unet2d_tensors
from consistency.teachers.schedulers import read_scheduler
from consistency.teachers.shards import WEIGHTS, read_json_object, read_safetensors, read_weights
from consistency.teachers.unet2d import Config, UNet
from consistency.teachers.values import brief_value
from consistency.teachers.weights import check_shapes, load_into, outlined

CHECKSUM = "consistency_sha256"  # in the metadata of the tensors' file
SCHEDULER = "scheduler_config.json"
LATENT = ("vae", "vqvae", "movq")  # components of a pipeline that encode images

# Names of attention before diffusers 0.15 -> those since.
MODERN = (
    (r"\.(query|key|value)\.", lambda m: f".to_{m[1][0]}."),
    (r"\.proj_attn\.", ".to_out.0."),
)


def diffusers(path: str | Path, net: nn.Module, trust: Sequence[str] = ()) -> Map:
    """The denoiser in a folder of diffusers, such as google/ddpm-cifar10-32, frozen.

    Args:
        path: the folder, flat or with unet/ and scheduler/ in it.
        net: a DDPMUNet or ADM of the same settings. It is left alone where the folder holds a network of this
            project, written by `export=diffusers`, which brings settings of its own.
        trust: packages whose classes those settings may name beside ours.

    Raises:
        UserError: a file is missing or damaged, says something else than `net`, or asks for what is not here.
    """
    folder = part(Path(path), "unet", "config.json")
    config, file = read_json_object(folder / "config.json"), folder / "config.json"
    said = str(config.get("_class_name", "UNet2DModel"))
    if said not in READERS:
        raise UserError(f"teacher.path={file} is a {printable_path(said)}: only UNet2DModel is supported")
    return READERS[said](Path(path), folder, config, net, trust).requires_grad_(False).eval()


def pure(path: Path, folder: Path, config: Config, net: nn.Module, trust: Sequence[str]) -> Map:
    """The map of a UNet2DModel, whose preconditioner follows from the scheduler beside it."""
    if not isinstance(net, UNet):
        raise UserError(
            f"teacher=diffusers needs net=ddpm_cifar10 or net=adm_imagenet64, not a {type(net).__name__}"
        )
    check_pixels(path)
    check_settings(folder / "config.json", config, net)
    levels = part(path, "scheduler", SCHEDULER) / SCHEDULER
    read = read_scheduler(levels, read_json_object(levels))
    load_weights(path, folder, net)
    role = Consistency if read.consistent else Denoiser
    return role(net, read.precond)


def check_pixels(path: Path) -> None:
    """Refuse a pipeline whose network works on latents, not on pixels.

    Raises:
        UserError: names the component that stands between.
    """
    file = path / "model_index.json"
    parts = read_json_object(file) if file.is_file() else {}
    for name in LATENT:
        if parts.get(name):
            raise UserError(
                f"teacher.path={file}: the pipeline has a {name}: its network denoises codes of images, not "
                "images; use a folder such as google/ddpm-cifar10-32"
            )


def own(path: Path, folder: Path, config: Config, net: nn.Module, trust: Sequence[str]) -> Map:
    """The map of a folder that an export of this project has written, with its own settings."""
    make = partial(described, "teacher.path", folder / "config.json", config.get("denoiser"), trust)
    outline, state = outlined(make), verified(path, folder, required=True)
    if outline is not None:
        check_shapes(outline, state, folder / WEIGHTS)
    f = make()
    load_into(f, state, folder / WEIGHTS)
    return f


READERS: dict[str, Callable[[Path, Path, Config, nn.Module, Sequence[str]], Map]] = {
    "UNet2DModel": pure,
    "Network": own,
}


def described(option: str, path: str | Path, config: Any, trust: Sequence[str] = ()) -> Map:
    """Build the map that plain data describe, before its weights are loaded.

    Args:
        option: what names the file, for messages.
        path: the file.
        config: as in checkpoints: `_target_` and its arguments. It is untrusted input.
        trust: packages whose classes it may name beside ours.

    Raises:
        UserError: it would call anything but this project, or describes no model of this version.
    """
    source = f"{option}={path}"
    if isinstance(config, Mapping):
        f = checked_config({"model": upgrade_denoiser(config, "Consistency")}, source, trust).build("model")
        if isinstance(f, Map):
            return f
    raise UserError(f"{source} describes no model of this version in `denoiser`; export the checkpoint again")


def part(path: Path, name: str, file: str) -> Path:
    """The folder that holds `file`: `path` or path/name."""
    for folder in (path / name, path):
        if (folder / file).is_file():
            return folder
    raise UserError(
        f"teacher.path={path}: neither {file} nor {name}/{file}; give a local folder of diffusers"
    )


def check_settings(file: Path, config: Config, net: UNet) -> None:
    """Compare the settings of a config.json that tensors do not show.

    Raises:
        UserError: the first field that disagrees with `net`, and the key that changes it.
    """
    check_sizes(file, config, net)
    for field, value, ours, key in unet2d.differing_field(config, net):
        if key is None:
            raise UserError(
                f"teacher.path={file}: {field}={value} is not supported by {type(net).__name__}, only {ours}"
            )
        raise UserError(f"teacher.path={file}: {field} is {value}, but {ours} in net; set {key}")


def check_sizes(file: Path, config: Config, net: UNet) -> None:
    """Compare the numbers of channels and pixels, where the file has them.

    Raises:
        UserError: the first that disagree.
    """
    channels, size = net.stem.in_channels, list(net.size)
    into, out = config.get("in_channels", channels), config.get("out_channels", channels)
    if out == 2 * channels and into == channels:
        raise UserError(
            f"teacher.path={file}: out_channels={out} for {channels} channels: the network predicts a "
            "variance as well (learned sigma), which is not supported; use one that predicts noise alone"
        )
    for field, value in {"in_channels": into, "out_channels": out}.items():
        if value != channels:
            raise UserError(
                f"teacher.path={file}: {field} is {brief_value(value)}, and the data have "
                f"{channels} channels: use "
                "data like those that it was trained on"
            )
    said = config.get("sample_size")
    if said is not None and (list(said) if isinstance(said, list) else [said, said]) != size:
        raise UserError(
            f"teacher.path={file}: sample_size is {brief_value(said)}, but images of the data are "
            f"{'x'.join(map(str, size))}: set data.resolution, or choose other data"
        )
    for field, value in config.items():
        if field not in unet2d.FIELDS and not field.startswith("_") and value not in (None, False):
            raise UserError(
                f"teacher.path={file}: {printable_path(field)}={brief_value(value)} is not known, "
                "and may change what the "
                "network computes: where it does not, take it out of the file"
            )


def load_weights(path: Path, folder: Path, net: UNet) -> None:
    """Load the safetensors of the folder.

    Raises:
        UserError: there are none, they are damaged, or of another network.
    """
    file = folder / WEIGHTS
    state = {
        unet2d_tensors.renamed_tensor(name, MODERN): tensor for name, tensor in verified(path, folder).items()
    }
    load_into(net, unet2d_tensors.here(net, state), file, unet2d_tensors.names(net))


def seal(path: Path) -> None:
    """Write the checksum of a new folder to the metadata of its tensors' file."""
    folder = part(path, "unet", "config.json")
    state, metadata = read_safetensors(folder / WEIGHTS)
    save_file(state, folder / WEIGHTS, {**metadata, CHECKSUM: checksum(path, folder, state)})


def verified(path: Path, folder: Path, required: bool = False) -> dict[str, Tensor]:
    """The tensors of a folder, compared with its checksum where it has one.

    Args:
        path: the folder that was named.
        folder: with the settings and the tensors in it.
        required: whether one without a checksum is refused.

    Raises:
        UserError: tensors, settings or noise levels are not what was written, or the checksum is missing.
    """
    state, metadata = read_weights(folder)
    said = metadata.get(CHECKSUM)
    if said is None and required:
        raise UserError(
            f"teacher.path={path} was written without a checksum, by an older version: export it again"
        )
    if said is not None and said != checksum(path, folder, state):
        raise UserError(
            f"teacher.path={path} is damaged or was edited: it is not what its checksum says; export it again"
        )
    return state


def checksum(path: Path, folder: Path, state: Mapping[str, Tensor]) -> str:
    """The checksum of tensors, settings and noise levels."""
    levels = next((f for f in (path / "scheduler" / SCHEDULER, path / SCHEDULER) if f.is_file()), None)
    said = {
        "config": read_json_object(folder / "config.json"),
        "scheduler": levels and read_json_object(levels),
    }
    return content_sha256({**said, "tensors": dict(state)})
