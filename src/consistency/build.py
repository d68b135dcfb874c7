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
from consistency.continuation import override_keys
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
from consistency.lit.checkpoint_io import AtomicCheckpointIO
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
    """Instantiate a node of the config; its dicts and lists are handed on as plain dicts and lists."""
    return instantiate(node, **extra, _convert_="all")


def build_part(key: str, node: Any, kind: type[T], **extra: Any) -> T:
    """Instantiate a section of the config and check its type.

    Args:
        key: of the section, for messages.
        node: the section.
        kind: class that the result must be an instance of.
        extra: further arguments, which are not in the config.

    Raises:
        UserError: the result is of another class.
    """
    made = make(node, **extra)
    if not isinstance(made, kind):
        raise UserError(f"{key}._target_={node._target_} makes no {kind.__name__}: choose another")
    return made


def build(config: DictConfig) -> tuple[DataModule, Module]:
    """Data and module of a composed config; the same config gives the same initial weights."""
    set_seed_and_threads(config.seed, config.threads)
    data = build_part("data", config.data, DataModule)
    if data.promised is not None:  # a network that is too large is refused before a folder is converted
        shape = data.codec.encoded(data.promised)
        check_network(lambda: build_part("net", config.net, nn.Module, shape=shape, classes=0), TRAINING)
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
    """Refuse an augmentation or a distance for pixels, where the codec encodes images as something else."""
    for name in ("augmentation", "distance"):
        part = getattr(getattr(module, "objective", None), name, None)
        if codec.visible and getattr(part, "of_pixels", False):
            what, remedy = f"{name}: {type(part).__name__} is made for", f"choose another with {name}=NAME"
            pixels_of(codec, what, remedy)


def set_seed_and_threads(seed: int, threads: int | None) -> None:
    """Seed torch, for the initial weights, and set the number of CPU threads; None leaves the number."""
    check_seed("seed", seed)
    check_threads(threads)
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)


def compile_if_wanted(model: Map, wanted: bool) -> Map:
    """The model, its network compiled in place if wanted, so that keys of checkpoints stay the same."""
    if wanted:
        model.net.compile()
    return model


def build_trainer(config: DictConfig, directory: Path, recorders: list[Callback]) -> Trainer:
    """The trainer with its callbacks, its loggers and atomic checkpoints."""
    options = {
        "callbacks": build_callbacks(config, directory, recorders),
        "logger": build_loggers(config),
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": str(directory),
        # Lightning counts batches here; the config counts optimiser steps.
        "val_check_interval": config.trainer.val_check_interval * config.trainer.accumulate_grad_batches,
    }
    return build_part("trainer", config.trainer, Trainer, **options)


def build_loggers(config: DictConfig) -> list[Logger]:
    """The loggers of the config, in its order, without those set to null; the list may be empty."""
    named = [(name, node) for name, node in (config.get("logger") or {}).items() if node is not None]
    return [build_part(f"logger.{name}", node, Logger) for name, node in named]


def build_callbacks(config: DictConfig, directory: Path, recorders: list[Callback]) -> list[Callback]:
    """The callbacks of the config, in its order, without those set to null, and those of every run.

    The order matters: `Agreement` compares the processes before any other callback acts; `Reports` sends a
    metric before it is saved; `Recovery` writes a rollback to disk after all callbacks that add to a
    checkpoint; `Interruption` stops the run last, when all others have seen the step.
    """
    named = [(name, node) for name, node in config.callbacks.items() if node is not None]
    built = [build_part(f"callbacks.{name}", node, Callback) for name, node in named]
    stops = of_type(built, Interruption)
    others = [callback for callback in built if callback not in stops]
    first = [Agreement(plain_config(config), directory, commit), Rewind(), Reports(config.optimized_metric)]
    return [*first, *others, *recorders, Recovery(), *stops]


def build_recorders(
    config: DictConfig, identity: Identity, changed: dict[str, list[Any]], clock: Clock
) -> list[Callback]:
    """The callbacks that add config, lengths of logs and the run's history to its checkpoints."""
    facts = {"commit": commit(), "batch_size": config.data.batch_size}
    return [
        HParams(hyperparameter_row(config)),  # first: Trackio reads them when the first value is logged
        KeepConfig(plain_config(config), experiment_name(), identity),
        Curves(),
        History(facts | {"precision": str(config.trainer.precision)}, changed, device_name, clock),
    ]


def plain_config(config: DictConfig) -> dict[str, Any]:
    """A config as a dict of plain containers, its references resolved."""
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def experiment_name() -> str:
    """Name of the run's experiment; without one, that of its method and data, such as ict_digits."""
    return recipe(HydraConfig.get().runtime.choices)


def hyperparameter_row(config: DictConfig) -> dict[str, str | float | bool]:
    """Hyperparameters of a run, for its logs: `COLUMNS`, and the keys that the command line changed.

    The value of a group of the config, such as solver=heun, is the name of the chosen option.
    """
    overridden, choices = override_keys(HydraConfig.get().overrides.task), HydraConfig.get().runtime.choices
    row: dict[str, str | float | bool] = {"experiment": experiment_name()}
    for key in [*COLUMNS, *(key for key in overridden if key != "sweep" and effect(key) != PLACE)]:
        value = choices[key] if key in choices else OmegaConf.select(config, key)
        plain = OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
        row[key] = plain if isinstance(plain, str | int | float | bool) else override_text(plain)
    return row


def run_directory() -> Path:
    """The directory of this run, which Hydra has made."""
    return Path(HydraConfig.get().runtime.output_dir)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a run."""
    return trainer.callbacks  # type: ignore[attr-defined]


def of_type(items: Iterable[Any], kind: type) -> list[Any]:
    """The items that are instances of a class."""
    return [item for item in items if isinstance(item, kind)]
