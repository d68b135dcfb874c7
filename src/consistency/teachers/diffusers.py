"""Folders of the diffusers library: config.json, scheduler_config.json and safetensors, as a denoiser.

Read as plain files: the library is not needed, and nothing in them is run. Folders of `export=diffusers` have
a checksum of tensors, settings and noise levels in the metadata of the tensors' file; others have none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from consistency.errors import UserError, nearest
from consistency.files.checksum import content_sha256
from consistency.files.config import checked
from consistency.files.paths import regular, shown
from consistency.model.coordinates import DDPM
from consistency.model.denoiser import Denoiser
from consistency.model.precond import Boundary, Epsilon, Precond, Velocity
from consistency.teachers import unet2d
from consistency.teachers.unet2d import Config, UNet
from consistency.teachers.values import brief
from consistency.teachers.weights import DAMAGE, check_shapes, damaged, load_into, outlined

Method = TypeVar("Method")

WEIGHTS = "diffusion_pytorch_model.safetensors"
LONGEST = 2**24  # bytes of a JSON file
CHECKSUM = "consistency_sha256"  # in the metadata of that file
SCHEDULER = "scheduler_config.json"
TIME_SCALE = 250.0  # of consistency models there: the network is given 250 ln σ

BETAS: dict[str, Callable[..., DDPM]] = {
    "linear": DDPM.linear,
    "scaled_linear": DDPM.scaled_linear,
    "squaredcos_cap_v2": lambda T, first, last: DDPM.cosine(T),
}
PREDICTIONS: dict[str, Callable[[DDPM], Precond]] = {"epsilon": Epsilon, "v_prediction": Velocity}

# Names of attention before diffusers 0.15 -> those since.
MODERN = (
    (r"\.(query|key|value)\.", lambda m: f".to_{m[1][0]}."),
    (r"\.proj_attn\.", ".to_out.0."),
)


def diffusers(path: str | Path, net: nn.Module, trust: Sequence[str] = ()) -> Denoiser:
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
    config, file = read_json(folder / "config.json"), folder / "config.json"
    said = str(config.get("_class_name", "UNet2DModel"))
    if said not in READERS:
        raise UserError(f"teacher.path={file} is a {shown(said)}: only UNet2DModel is supported")
    return READERS[said](Path(path), folder, config, net, trust).requires_grad_(False).eval()


def pure(path: Path, folder: Path, config: Config, net: nn.Module, trust: Sequence[str]) -> Denoiser:
    """A UNet2DModel, which means what the scheduler beside it says."""
    if not isinstance(net, UNet):
        raise UserError(
            f"teacher=diffusers needs net=ddpm_cifar10 or net=adm_imagenet64, not a {type(net).__name__}"
        )
    check_settings(folder / "config.json", config, net)
    precond = read_scheduler(part(path, "scheduler", SCHEDULER) / SCHEDULER)
    load_weights(path, folder, net)
    return Denoiser(net, precond)


def own(path: Path, folder: Path, config: Config, net: nn.Module, trust: Sequence[str]) -> Denoiser:
    """A network of this project, with settings of its own."""
    make = partial(described, "teacher.path", folder / "config.json", config.get("denoiser"), trust)
    outline, state = outlined(make), verified(path, folder, required=True)
    if outline is not None:
        check_shapes(outline, state, folder / WEIGHTS)
    f = make()
    load_into(f, state, folder / WEIGHTS)
    return f


READERS: dict[str, Callable[[Path, Path, Config, nn.Module, Sequence[str]], Denoiser]] = {
    "UNet2DModel": pure,
    "Network": own,
}


def described(option: str, path: str | Path, config: Any, trust: Sequence[str] = ()) -> Denoiser:
    """The denoiser that plain data describe, with weights yet to come.

    Args:
        option: what names the file, for messages.
        path: the file.
        config: as in checkpoints: `_target_` and its arguments. It is untrusted input.
        trust: packages whose classes it may name beside ours.

    Raises:
        UserError: it would call anything but this project, or describes no denoiser of this version.
    """
    source = f"{option}={path}"
    if isinstance(config, Mapping):
        f = checked({"denoiser": {**config}}, source, trust).build("denoiser")
        if isinstance(f, Denoiser):
            return f
    raise UserError(
        f"{source} describes no denoiser of this version in `denoiser`; export the checkpoint again"
    )


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
        if file.stat().st_size > LONGEST:
            raise damaged(file)
        content = json.loads(regular(file).read_text("utf-8"))
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
    return SCHEDULERS.get(str(config.get("_class_name")), chain)(file, config)


def consistency(file: Path, config: Config) -> Precond:
    """A consistency function in the coordinates of EDM: f(x, ε) = x."""
    sigma_data, sigma_min = config.get("sigma_data", 0.5), config.get("sigma_min", 0.002)
    try:
        return Boundary(float(sigma_data), float(sigma_min), TIME_SCALE)
    except (TypeError, ValueError, OverflowError) as error:
        said = f"sigma_data={brief(sigma_data)} and sigma_min={brief(sigma_min)}"
        raise UserError(f"teacher.path={file}: {said} must be numbers from 1e-9 to 1e6") from error


def chain(file: Path, config: Config) -> Precond:
    """A network trained on the chain of DDPM."""
    prediction = supported(file, "prediction_type", config.get("prediction_type", "epsilon"), PREDICTIONS)
    if config.get("rescale_betas_zero_snr"):
        raise UserError(f"teacher.path={file}: rescale_betas_zero_snr ends at infinite noise; not supported")
    return prediction(read_levels(file, config))


SCHEDULERS: dict[str, Callable[[Path, Config], Precond]] = {"CMStochasticIterativeScheduler": consistency}


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
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        keys = "num_train_timesteps, beta_start and beta_end" if law else "trained_betas"
        raise UserError(f"teacher.path={file}: {keys} do not make a chain of β between 0 and 1") from error


def supported(file: Path, field: str, value: Any, known: Mapping[str, Method]) -> Method:
    """What the value of `field` chooses from the known."""
    name = str(value)
    if name not in known:
        raise UserError(f"teacher.path={file}: {field}={name} is not supported; {nearest(name, known)}")
    return known[name]


def check_settings(file: Path, config: Config, net: UNet) -> None:
    """Compare what the file says and tensors do not show.

    Raises:
        UserError: the first field that disagrees with `net`, and the key that changes it.
    """
    for field, value, ours, key in unet2d.differs(config, net):
        if key is None:
            raise UserError(
                f"teacher.path={file}: {field}={value} is not supported by {type(net).__name__}, only {ours}"
            )
        raise UserError(f"teacher.path={file}: {field} is {value}, but {ours} in net; set {key}")


def load_weights(path: Path, folder: Path, net: UNet) -> None:
    """Load the safetensors of the folder.

    Raises:
        UserError: there are none, they are damaged, or of another network.
    """
    file = folder / WEIGHTS
    state = {unet2d.renamed(name, MODERN): tensor for name, tensor in verified(path, folder).items()}
    load_into(net, unet2d.here(net, state), file, unet2d.names(net))


def seal(path: Path) -> None:
    """Write the checksum of a folder that has just been made into the file of its tensors."""
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
    state, metadata = read_safetensors(folder / WEIGHTS)
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
    """Of tensors, settings and noise levels."""
    levels = next((f for f in (path / "scheduler" / SCHEDULER, path / SCHEDULER) if f.is_file()), None)
    said = {"config": read_json(folder / "config.json"), "scheduler": levels and read_json(levels)}
    return content_sha256({**said, "tensors": dict(state)})


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a file.

    Raises:
        UserError: it is missing or damaged.
    """
    if not file.is_file():
        raise UserError(
            f"teacher.path={file}: no such file; a .bin may hold code and is not read: fetch the "
            ".safetensors of the same page, or save the tensors of the .bin with safetensors.torch.save_file"
        )
    try:
        with safe_open(file, "pt") as content:
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return state, content.metadata() or {}
    except (SafetensorError, *DAMAGE) as error:
        raise damaged(file) from error
