"""The objects of a training run, built from its config."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from consistency.codec.codec import Codec
from consistency.codec.pixels import pixels_of
from consistency.continuation import given_keys
from consistency.continuation.differences import override_text
from consistency.errors import UserError, check_seed
from consistency.lit.callbacks.agreement import Agreement
from consistency.lit.callbacks.checkpoints import KeepConfig
from consistency.lit.callbacks.curves import Curves, Rewind
from consistency.lit.callbacks.history import Clock, History
from consistency.lit.callbacks.hparams import HParams
from consistency.lit.callbacks.interruption import Interruption
from consistency.lit.callbacks.recovery import Recovery
from consistency.lit.callbacks.reports import Reports
from consistency.lit.checkpoint import AtomicCheckpointIO
from consistency.lit.data.identity import Identity
from consistency.lit.data.module import DataModule
from consistency.lit.footprint import TRAINING, check_network
from consistency.lit.module import Module
from consistency.model.maps import Map
from consistency.result import commit, device_name
from consistency.schema.options import check_threads
from consistency.schema.recipes import recipe
from consistency.schema.rules import PLACE, effect

T = TypeVar("T")

COLUMNS = ("seed", "trainer.max_steps", "data.batch_size", "optimizer.lr")  # of every row in the HParams tab


def make(node: Any, **extra: Any) -> Any:
    """What a config describes. Containers become plain ones: OmegaConf would take dataclasses for configs."""
    return instantiate(node, **extra, _convert_="all")


def build_part(key: str, node: Any, kind: type[T], **extra: Any) -> T:
    """What a section of the config describes, if it is what stands there.

    Args:
        key: of the section.
        node: the section.
        kind: class that it must be of.
        extra: arguments that no config knows.

    Raises:
        UserError: it is something else.
    """
    made = make(node, **extra)
    if not isinstance(made, kind):
        raise UserError(f"{key}._target_={node._target_} makes no {kind.__name__}: choose another")
    return made


def build(config: DictConfig) -> tuple[DataModule, Module]:
    """Data and module of a composed config. The same config builds the same weights."""
    begin(config.seed, config.threads)
    data = build_part("data", config.data, DataModule)
    if data.promised is not None:  # refused before a folder is converted
        seen = data.codec.encoded(data.promised)
        check_network(lambda: build_part("net", config.net, nn.Module, shape=seen, classes=0), TRAINING)
    with open_dict(config):
        config.net.shape, config.net.classes = list(data.shape), data.classes
    check_network(lambda: build_part("net", config.net, nn.Module), TRAINING)
    if data.flip and not data.codec.visible:
        raise UserError("data.flip=true mirrors images, and these are points: set data.flip=false")
    model = compile_if_wanted(build_part("model", config.model, Map), config.compile)
    module = build_part("module", config.module, Module, model=model)
    check_laws(module, data.codec)
    return data, module


def check_laws(module: Module, codec: Codec) -> None:
    """Refuse parts of an objective that are made for pixels, where networks see something else."""
    for name in ("augmentation", "distance"):
        law = getattr(getattr(module, "objective", None), name, None)
        if codec.visible and getattr(law, "of_pixels", False):
            what, remedy = f"{name}: {type(law).__name__} is made for", f"choose another with {name}=NAME"
            pixels_of(codec, what, remedy)


def begin(seed: int, threads: int | None) -> None:
    """Seed the weights to come, and set the number of CPU threads."""
    check_seed("seed", seed)
    check_threads(threads)
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)


def compile_if_wanted(model: Map, wanted: bool) -> Map:
    """The model, its network compiled in place if wanted: checkpoint keys stay what they are."""
    if wanted:
        model.net.compile()
    return model


def build_trainer(config: DictConfig, directory: Path, keepers: list[Callback]) -> Trainer:
    """The trainer with its callbacks, its loggers and atomic checkpoints."""
    options = {
        "callbacks": build_callbacks(config, directory, keepers),
        "logger": build_loggers(config),
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": str(directory),
        # Lightning counts batches here, the config optimiser steps.
        "val_check_interval": config.trainer.val_check_interval * config.trainer.accumulate_grad_batches,
    }
    return build_part("trainer", config.trainer, Trainer, **options)


def build_loggers(config: DictConfig) -> list[Logger]:
    """The loggers of the config, in its order, without those set to null; the list may be empty."""
    named = [(name, node) for name, node in (config.get("logger") or {}).items() if node is not None]
    return [build_part(f"logger.{name}", node, Logger) for name, node in named]


def build_callbacks(config: DictConfig, directory: Path, keepers: list[Callback]) -> list[Callback]:
    """The callbacks of the config, in its order, without those set to null; and what every run has.

    What compares processes comes first, and what is reported before it is saved; what writes a rollback down
    after all that is written; what stops the run last, so that all others have seen the step.
    """
    named = [(name, node) for name, node in config.callbacks.items() if node is not None]
    built = [build_part(f"callbacks.{name}", node, Callback) for name, node in named]
    stops = of_type(built, Interruption)
    others = [callback for callback in built if callback not in stops]
    first = [Agreement(plain_config(config), directory, commit), Rewind(), Reports(config.optimized_metric)]
    return [*first, *others, *keepers, Recovery(), *stops]


def build_keepers(
    config: DictConfig, about: Identity, changed: dict[str, list[Any]], clock: Clock
) -> list[Callback]:
    """What keeps the config, the curves of training and the history of a run in its checkpoints."""
    facts = {"commit": commit(), "batch_size": config.data.batch_size}
    return [
        HParams(hyperparameters(config)),  # first: Trackio takes them with the first thing that is logged
        KeepConfig(plain_config(config), experiment(), about),
        Curves(),
        History(facts | {"precision": str(config.trainer.precision)}, changed, device_name, clock),
    ]


def plain_config(config: DictConfig) -> dict[str, Any]:
    """A config as plain data, resolved."""
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def experiment() -> str:
    """Name of the run's experiment, or of its method and data."""
    return recipe(HydraConfig.get().runtime.choices)


def hyperparameters(config: DictConfig) -> dict[str, str | float | bool]:
    """The row of a run in the HParams tab: what every run has, and whatever the command line changed.

    A part that was chosen by its name, such as solver=heun, is that name.
    """
    given, choices = given_keys(HydraConfig.get().overrides.task), HydraConfig.get().runtime.choices
    row: dict[str, str | float | bool] = {"experiment": experiment()}
    for key in [*COLUMNS, *(key for key in given if key != "sweep" and effect(key) != PLACE)]:
        value = choices[key] if key in choices else OmegaConf.select(config, key)
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        row[key] = plain if isinstance(plain, str | int | float | bool) else override_text(plain)
    return row


def run_directory() -> Path:
    """The one directory a run works in, which Hydra has made."""
    return Path(HydraConfig.get().runtime.output_dir)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a run."""
    return trainer.callbacks  # type: ignore[attr-defined]


def of_type(items: Iterable[Any], kind: type) -> list[Any]:
    """Those of a kind."""
    return [item for item in items if isinstance(item, kind)]
