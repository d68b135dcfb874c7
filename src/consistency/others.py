"""Foreign files of weights, read by the option of the group `as`: `ckpt_path=FILE as=NAME` (configs/as/).

The group `as` and the sections net, data, samplers, metric and sigma of the command provide what such a file
lacks. Together they give the content of a checkpoint of this project, without a training run.
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
from consistency.lit.data.module import DataModule
from consistency.model.maps import Map
from consistency.sampling.samplers import check_samplers

GROUP = "as"
SECTIONS = ("net", "data", "samplers", "metric", "sigma", "seed")  # of the resulting config, beside `model`
WEIGHTS = "published"  # name of the weights
FOREIGN = (".pkl", ".pt", ".pth")  # suffixes of foreign files
INDICES = ("model_index.json", "config.json")  # files in folders of diffusers


def read_other(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """Path and content of a foreign file, in the form that `teachers.checkpoint.read_named` returns.

    Args:
        config: of the evaluation, with a choice of `as`; net.shape and net.classes are set from the data
            where they have no value.

    Raises:
        UserError: the file is missing, damaged or of another kind; or a section that it needs is missing.
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
    """Refuse a command without a section that a foreign file lacks.

    Raises:
        UserError: names the section.
    """
    for name in SECTIONS:
        if config.get(name) is None:
            raise UserError(
                f"{name} has no value, and ckpt_path={config.ckpt_path} does not say it: {name}=…"
            )


def set_network_shape(config: DictConfig) -> None:
    """Set net.shape and net.classes, where they have no value, from the data, which may be loaded for it."""
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
    """The map in a foreign file, by the reader of `as`; its errors are rewritten to name `ckpt_path`.

    Raises:
        UserError: the file is refused, or contains a network of this project.
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
    """Refuse samplers for another role, and a σ_min below the levels that the network was trained on."""
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
    """Refuse a foreign file, where no option of `as` is chosen.

    Raises:
        UserError: the path looks like one; names an option for it.
    """
    path = Path(ckpt_path)
    folder = path.is_dir() and any((path / name).is_file() for name in INDICES)
    if folder or path.suffix in FOREIGN:
        such = "as=diffusers" if folder else "as=edm" if path.suffix == ".pkl" else "as=openai_consistency"
        raise UserError(
            f"ckpt_path={path} is no whole checkpoint of this project: if it is a file of others, choose "
            f"what it is, such as {such} net=NAME data=NAME (configs/as/)"
        )
