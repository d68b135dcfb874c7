"""A run built again from the config in its checkpoint, with the changes of the command line.

It writes only where the settings of the evaluation say, whatever paths that config has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from consistency.codec.identity import codec_digest
from consistency.errors import UserError
from consistency.files.config import FileConfig, checked_config, targets
from consistency.files.overrides import overridden
from consistency.files.registry import packages
from consistency.library.model import Model
from consistency.lit.data.module import DataModule
from consistency.metrics.judge import Judge

USED = frozenset(["data", "model", "metric", "module", "sigma", "seed", "threads", "compile"])

Changes = Mapping[str, Any]


def apply_override(brought: FileConfig, config: DictConfig) -> tuple[FileConfig, Changes]:
    """A file's config with the command line's `override`, checked again; and that override as plain data.

    Args:
        brought: of the file.
        config: of the evaluation.

    Raises:
        UserError: a change has no effect, or makes no plain data.
    """
    if not OmegaConf.is_dict(config.override):
        raise UserError(f"override={config.override} must hold keys: +override.data.root=PATH")
    changes = OmegaConf.to_container(config.override, resolve=True)
    assert isinstance(changes, dict)
    changes = {str(name): node for name, node in changes.items()}
    if not changes:
        return brought, {}
    used = USED - ({"metric"} if config.get("metric") else set())
    content = overridden(brought.to_plain(), changes, used)
    return checked_config(content, brought.source, packages(config.trust), targets(changes)), changes


def redirect_cache(written: FileConfig, changes: Changes, config: DictConfig) -> FileConfig:
    """The config as an evaluation builds it: its caches in ours.

    Args:
        written: of the run.
        changes: of the command line.
        config: of the evaluation.
    """
    content = written.to_plain()
    metric = content.get("metric")
    if isinstance(metric, dict) and "cache" in metric and "cache" not in overridden_keys(changes, "metric"):
        metric["cache"] = None if config.cache is None else str(Path(config.cache) / "reference")
    return checked_config(content, written.source, packages(config.trust), targets(changes))


def data_of(brought: FileConfig, changes: Changes, model: Model, directory: Path) -> DataModule:
    """The data of a run. They are read when they are asked for; until then they are what the network is for.

    Args:
        brought: config of the file.
        changes: of the command line.
        model: that was trained on them.
        directory: for downloads and caches.

    Raises:
        UserError: the config describes none, or networks would see something else than in training.
    """
    data = check_kind(brought.source, "data", brought.build("data"), DataModule)
    data.write_below(directory, overridden_keys(changes, "data"))
    data.expect(model.shape, model.classes)
    if codec_digest(model.codec) != codec_digest(data.codec):
        raise UserError(
            f"ckpt_path={model.provenance.path} was trained with another codec than that of the data, "
            f"{data.codec}: leave data.codec, data.offset and data.scale as they were in training "
            "(+override.data.KEY=VALUE)"
        )
    return data


def build_judge(brought: FileConfig) -> Judge:
    """The judge of its samples.

    Raises:
        UserError: the config does not describe one.
    """
    built = brought.build("metric")
    if not all(
        callable(getattr(built, name, None)) for name in ("check", "begin", "update", "compute", "protocol")
    ):
        raise UserError(
            f"{brought.source}: metric in its config judges no samples; say which does: metric=..."
        )
    return built


def check_kind(source: str, section: str, built: Any, kind: type) -> Any:
    """What was built, if it is of this kind."""
    if not isinstance(built, kind):
        raise UserError(
            f"{source}: {section} in its config is no {kind.__name__}; use the checkpoint as it was written"
        )
    return built


def whole_number(brought: FileConfig, key: str, default: int | None) -> Any:
    """A whole number of the config."""
    value = brought.content.get(key, default)
    if value is not None and type(value) is not int:
        raise UserError(f"{brought.source}: {key} in its config is no whole number")
    return value


def overridden_keys(changes: Changes, section: str) -> Mapping[str, Any]:
    """The keys of a section that the command line names."""
    node = changes.get(section)
    return node if isinstance(node, Mapping) else {}


def without_sections(content: dict[str, Any], *sections: str) -> dict[str, Any]:
    """The content but for some sections."""
    return {name: node for name, node in content.items() if name not in sections}
