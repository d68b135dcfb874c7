"""Files of others, opened as what the command line says they are: `ckpt_path=FILE as=NAME` (configs/as/).

What such a file does not say is named by the group `as` and by net, data, samplers, metric and sigma beside
it. Together they are what a checkpoint of ours would hold, without a training run.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from consistency.build import build_part, make, set_seed_and_threads
from consistency.errors import UserError
from consistency.files.config import checked_config
from consistency.files.description import described
from consistency.files.paths import absent_path
from consistency.files.registry import packages
from consistency.files.upgrade import PREFIX
from consistency.library.opening import check_samplers
from consistency.lit.data.module import DataModule
from consistency.model.maps import Map

GROUP = "as"
SECTIONS = ("net", "data", "samplers", "metric", "sigma", "seed")  # of its config, beside `model`
WEIGHTS = "published"  # the name of its only weights
FOREIGN = (".pkl", ".pt", ".pth")  # how such files end; and folders of diffusers have these
INDICES = ("model_index.json", "config.json")


def read_other(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """A file of others with its content, as `teachers.checkpoint.read_named` gives it.

    Args:
        config: of the evaluation, composed with a choice of `as`; net.shape and net.classes follow from the
            data where they are not given.

    Raises:
        UserError: the file is missing, damaged or of something else; or what it does not say is not given.
    """
    path = Path(config.ckpt_path)
    if not path.exists():
        raise absent_path("ckpt_path", path)
    check_sections(config)
    set_seed_and_threads(config.seed, config.threads)
    set_network_shape(config)
    net = build_part("net", config.net, nn.Module)
    f = read_map(config, path, net)
    check_map(f, config)
    content = {name: to_plain(config[name]) for name in SECTIONS}
    kind = type(f)
    model = {"_target_": f"{kind.__module__}.{kind.__qualname__}", "net": content["net"]}
    content["model"] = {**model, "precond": described(f.precond)}
    return path, {
        "state_dict": {f"{PREFIX}{name}": tensor for name, tensor in f.state_dict().items()},
        "config": checked_config(content, f"ckpt_path={path}", packages(config.trust)),
        "callbacks": {"EMA": {"averages": {WEIGHTS: {}}, "evaluate": WEIGHTS}},
        "exported": True,
        "global_step": 0,
        "experiment": None,
    }


def check_sections(config: DictConfig) -> None:
    """Refuse a command that has taken away what a file of others does not say.

    Raises:
        UserError: names the section.
    """
    for name in SECTIONS:
        if config.get(name) is None:
            raise UserError(
                f"{name} has no value, and ckpt_path={config.ckpt_path} does not say it: {name}=…"
            )


def set_network_shape(config: DictConfig) -> None:
    """Set net.shape and net.classes, where they are not given, to those of the data; read if need be."""
    missing = [name for name in ("shape", "classes") if OmegaConf.is_missing(config.net, name)]
    if not missing:
        return
    data = build_part("data", config.data, DataModule)
    with open_dict(config):
        if "shape" in missing:
            promised = data.promised
            config.net.shape = list(data.codec.encoded(promised) if promised else data.shape)
        if "classes" in missing:
            config.net.classes = data.classes if data.conditional else 0


def read_map(config: DictConfig, path: Path, net: nn.Module) -> Map:
    """The map in a file, by the reader of `as`; its messages name the file by the key of this command.

    Raises:
        UserError: the file is refused, or brings a network of its own.
    """
    try:
        f = make(config[GROUP])(path=path, net=net)
    except UserError as error:
        raise UserError(str(error).replace("teacher.path=", "ckpt_path=")) from error
    if not isinstance(f, Map) or f.net is not net:
        raise UserError(
            f"ckpt_path={path} was written by export=diffusers of this project, and its data are not known: "
            "give the checkpoint, or a file of export=safetensors"
        )
    return f


def check_map(f: Map, config: DictConfig) -> None:
    """Refuse samplers of another role, and noise below what the network has seen."""
    made = make(config.samplers)
    check_samplers({name: sampler for name, sampler in made.items() if sampler is not None}, f)
    lowest = f.precond.lowest
    if config.sigma.min < lowest * (1 - 1e-6):
        raise UserError(
            f"sigma.min={config.sigma.min} lies below {lowest:.7g}, the least noise that the network of "
            f"ckpt_path={config.ckpt_path} has seen: set sigma.min={lowest:.7g}"
        )


def to_plain(node: Any) -> Any:
    """A section as plain data, its references resolved."""
    return OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node


def check_not_foreign(ckpt_path: str) -> None:
    """Of a file that cannot be read as ours: refuse one of others, where `as` does not say what it is.

    Raises:
        UserError: names a choice for such a file.
    """
    path = Path(ckpt_path)
    folder = path.is_dir() and any((path / name).is_file() for name in INDICES)
    if folder or path.suffix in FOREIGN:
        such = "as=diffusers" if folder else "as=edm" if path.suffix == ".pkl" else "as=openai_consistency"
        raise UserError(
            f"ckpt_path={path} is no whole checkpoint of this project: if it is a file of others, choose "
            f"what it is, such as {such} net=NAME data=NAME (configs/as/)"
        )
