"""Rebuilds the data and the judge of a run from the config in its checkpoint, for an evaluation.

They write only to the directories of the evaluation, whatever paths that config has.
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
    """Apply `override` of the command line to the config of a file, and check it again.

    Args:
        brought: config of the file.
        config: of the evaluation.

    Returns:
        The changed config, and the override as plain data.

    Raises:
        UserError: an override has no effect, or is no plain data.
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
    """The config of a file with the cache of its metric in that of the evaluation.

    Args:
        written: config of the file, after `apply_override`.
        changes: overrides of the command line, whose cache is kept.
        config: of the evaluation.
    """
    content = written.to_plain()
    metric = content.get("metric")
    if isinstance(metric, dict) and "cache" in metric and "cache" not in overridden_keys(changes, "metric"):
        metric["cache"] = None if config.cache is None else str(Path(config.cache) / "reference")
    return checked_config(content, written.source, packages(config.trust), targets(changes))


def data_of(brought: FileConfig, changes: Changes, model: Model, directory: Path) -> DataModule:
    """The data of a run, which are loaded when they are first used; shape and classes follow from the model.

    Args:
        brought: config of the file.
        changes: overrides of the command line.
        model: that was trained on them.
        directory: for downloads and caches.

    Raises:
        UserError: the config describes no data, or another codec than that of the model.
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
    """Build the judge of samples that the config of a file describes.

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
    """Refuse an object that a config of a file has built if it is of another class."""
    if not isinstance(built, kind):
        raise UserError(
            f"{source}: {section} in its config is no {kind.__name__}; use the checkpoint as it was written"
        )
    return built


def whole_number(brought: FileConfig, key: str, default: int | None) -> Any:
    """An integer of the config of a file."""
    value = brought.content.get(key, default)
    if value is not None and type(value) is not int:
        raise UserError(f"{brought.source}: {key} in its config is no whole number")
    return value


def overridden_keys(changes: Changes, section: str) -> Mapping[str, Any]:
    """The overrides of a section, by key."""
    node = changes.get(section)
    return node if isinstance(node, Mapping) else {}


def without_sections(content: dict[str, Any], *sections: str) -> dict[str, Any]:
    """A config without some sections."""
    return {name: node for name, node in content.items() if name not in sections}
