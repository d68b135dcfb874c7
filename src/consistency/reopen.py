"""A run built again from the config in its checkpoint, with the changes of the command line.

It writes only where the settings of the evaluation say, whatever paths that config has.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from consistency.build import begin, compiled
from consistency.codec.identity import digest
from consistency.errors import UserError
from consistency.files.config import FileConfig, checked, targets
from consistency.files.overrides import overridden
from consistency.files.registry import packages
from consistency.lit.data.module import DataModule
from consistency.lit.module import Module
from consistency.lit.rehearsal import check_samplers
from consistency.metrics.judge import Judge
from consistency.model.maps import Map
from consistency.sampling.samplers import Sampler
from consistency.teachers.checkpoint import fitting

USED = frozenset(["data", "model", "metric", "module", "sigma", "seed", "threads", "compile"])

Changes = Mapping[str, Any]


def changed(brought: FileConfig, config: DictConfig) -> tuple[FileConfig, Changes]:
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
    content = overridden(brought.plain(), changes, used)
    return checked(content, brought.source, packages(config.trust), targets(changes)), changes


def adapted(written: FileConfig, changes: Changes, config: DictConfig) -> FileConfig:
    """The config as an evaluation builds it: without what only training asks for, its caches in ours.

    Args:
        written: of the run.
        changes: of the command line.
        config: of the evaluation.
    """
    content = written.plain()
    objective = content.get("module", {}).get("objective")
    if isinstance(objective, dict) and "distance" in objective:
        objective["distance"] = None  # which may ask for files that an evaluation does without
    metric = content.get("metric")
    if isinstance(metric, dict) and "cache" in metric and "cache" not in named(changes, "metric"):
        metric["cache"] = None if config.cache is None else str(Path(config.cache) / "reference")
    content["threads"] = config.threads or content.get("threads")  # two threads slow a small network down
    return checked(content, written.source, packages(config.trust), targets(changes))


def rebuilt(
    brought: FileConfig, config: DictConfig, changes: Changes, weights: dict[str, Tensor]
) -> tuple[DataModule, Any]:
    """Data and module. Data are read when they are asked for; until then they are what the network is for.

    Raises:
        UserError: the config does not describe them.
    """
    net, source = brought.section("net"), brought.source
    shape, classes = net.get("shape"), net.get("classes")
    if any(brought.section("model", "net").get(key) != net.get(key) for key in ("shape", "classes")):
        raise UserError(
            f"{source}: net and model.net are for other data; use the checkpoint as it was written"
        )
    begin(number(brought, "seed", 0), number(brought, "threads", None))
    data = brought.build("data")
    model = fitting(brought, weights, config.ckpt_path)
    expected(source, "data", data, DataModule)
    expected(source, "model", model, Map)
    if not is_shape(shape) or type(classes) is not int or classes < 0:
        raise UserError(
            f"{source}: net.shape and net.classes are no shape and no number of classes; "
            "use the checkpoint as it was written"
        )
    data.write_below(Path(config.data_dir), named(changes, "data"))
    data.expect(shape, classes)
    if "module" not in brought.content:
        return data, Untrained(model, brought.build("samplers"))
    module = brought.build("module", model=compiled(model, brought.content.get("compile") is True))
    expected(source, "module", module, Module)
    return data, module


class Untrained(nn.Module):
    """In place of the module of a run: a map with samplers.

    Args:
        model: of any role.
        samplers: by name; None for none.
    """

    def __init__(self, model: Map, samplers: Mapping[str, Sampler | None]) -> None:
        super().__init__()
        self.model = model
        self.samplers = {name: sampler for name, sampler in samplers.items() if sampler is not None}
        check_samplers(self.samplers, model)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(self.model.parameters()).device


def check_codec(path: Path, kept: Mapping[str, Any], data: DataModule, changes: Changes) -> None:
    """Refuse data whose codec is not the one that the network was trained with.

    Args:
        path: of the checkpoint, for messages.
        kept: its content; older ones do not say their codec, which follows from their config then.
        data: as they are built now.
        changes: of the command line.

    Raises:
        UserError: networks would see something else.
    """
    there, config = kept.get("data", {}).get("codec"), kept["config"]
    if there is None and "data" in changes:
        as_trained = expected(config.source, "data", config.build("data"), DataModule)
        as_trained.expect(config.section("net")["shape"], 0)
        there = digest(as_trained.codec)
    if there not in (None, digest(data.codec)):
        raise UserError(
            f"ckpt_path={path} was trained with another codec than that of the data, {data.codec}: leave "
            "data.codec, data.offset and data.scale as they were in training (+override.data.KEY=VALUE)"
        )


def judge(brought: FileConfig) -> Judge:
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


def expected(source: str, section: str, built: Any, kind: type) -> Any:
    """What was built, if it is of this kind."""
    if not isinstance(built, kind):
        raise UserError(
            f"{source}: {section} in its config is no {kind.__name__}; use the checkpoint as it was written"
        )
    return built


def number(brought: FileConfig, key: str, default: int | None) -> Any:
    """A whole number of the config."""
    value = brought.content.get(key, default)
    if value is not None and type(value) is not int:
        raise UserError(f"{brought.source}: {key} in its config is no whole number")
    return value


def is_shape(shape: Any) -> bool:
    """Whether a value is the shape of an image or of a point."""
    return (
        isinstance(shape, tuple)
        and len(shape) in (1, 3)
        and all(type(length) is int and length > 0 for length in shape)
    )


def named(changes: Changes, section: str) -> Mapping[str, Any]:
    """The keys of a section that the command line names."""
    node = changes.get(section)
    return node if isinstance(node, Mapping) else {}


def without(content: dict[str, Any], *sections: str) -> dict[str, Any]:
    """The content but for some sections."""
    return {name: node for name, node in content.items() if name not in sections}
