"""What a config may call: a checkpoint is untrusted input, and so is the config it brings."""

import inspect
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
TRUSTED = ("consistency.", "torch.optim.", "lightning.pytorch.", "lightning.Trainer")


def check_trusted(option: str, path: str | Path, config: DictConfig) -> None:
    """Refuse the config of a checkpoint if it would call anything but this project and what its configs name.

    A checkpoint is untrusted input, and a `_target_` may be any function of any package; of ours, too, some
    write files. So functions must be named in configs/, and other targets be classes.
    """
    for key, node in described(config):
        name = str(node._target_)
        found = existing(name) if name.startswith(TRUSTED) else None
        ours = str(getattr(found, "__module__", None)).startswith(TRUSTED)
        if not (ours and (inspect.isclass(found) or name in named())):
            raise UserError(
                f"{option}={path} would call {name} ({key}) and was not used: use a checkpoint written "
                "by this project, with classes of its own"
            )


def existing(name: str) -> Any:
    """What a name stands for; None for nothing."""
    try:
        return get_object(name)
    except Exception:  # of ours a class that is no more, of others whatever their import raises
        return None


@lru_cache(maxsize=1)
def named() -> frozenset[str]:
    """Every `_target_` in configs/."""
    texts = (path.read_text("utf-8") for path in CONFIGS.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*(\S+)", text))


def plain(node: Any) -> dict[str, Any]:
    """A config as a dict, its interpolations as they are written."""
    return OmegaConf.to_container(node)  # type: ignore[return-value]


def described(config: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, with its key; what an interpolation refers to has a key of its own."""
    if OmegaConf.is_dict(config) and "_target_" in config:
        yield path, config
    keys = config if OmegaConf.is_dict(config) else range(len(config)) if OmegaConf.is_list(config) else ()
    for key in keys:
        if not OmegaConf.is_interpolation(config, key) and not OmegaConf.is_missing(config, key):
            yield from described(config[key], f"{path}.{key}".lstrip("."))
