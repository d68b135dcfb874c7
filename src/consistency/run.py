"""From a config to a result: compose, build, run, write result.json."""

import logging
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from consistency.errors import UserError, nearest
from consistency.lit.boards import boards
from consistency.lit.callbacks.averages import EMA
from consistency.lit.callbacks.checkpoints import KeepConfig
from consistency.lit.callbacks.costs import Costs, sampling_calls
from consistency.lit.callbacks.evaluation import Evaluation
from consistency.lit.callbacks.guard import Diverged
from consistency.lit.callbacks.interruption import Interrupted
from consistency.lit.checkpoint import AtomicCheckpointIO
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.footprint import TRAINING, check_network
from consistency.lit.hardware import check_counts, check_hardware
from consistency.lit.module import Module
from consistency.lit.protocol import model, protocol
from consistency.lit.rollback import go_back, go_on, rollbacks
from consistency.metrics.card import Card, Number, code
from consistency.metrics.choice import pick
from consistency.model.denoiser import Denoiser
from consistency.result import commit, device_name, environment, line, table, where, write_result
from consistency.schema import check_composed
from consistency.teach import find_teacher, teach, teacher_metrics
from consistency.teachers.checkpoint import check_fits, newest, read_checkpoint
from consistency.tensor import weights_sha256

T = TypeVar("T")
COLUMNS = ("seed", "trainer.max_steps", "data.batch_size", "optimizer.lr")  # of every row in the HParams tab


def train(config: DictConfig, asked: Path | None = None) -> float | None:
    """Train as configured, or go on training; the metric that a sweep optimises comes back.

    Args:
        config: as composed.
        asked: the directory that the user works in, where it is not the run's own.
    """
    check_composed(config, "train")
    directory = run_directory()
    ckpt = resume_from(config.ckpt_path, directory)
    check_counts(config.trainer)
    check_hardware(config.trainer)
    teacher = find_teacher(config, directory)
    data, module = build(config)
    if ckpt is not None:
        check_fits(ckpt, read_checkpoint(ckpt)["state_dict"], module)
    with hushed():
        trainer = build_trainer(config, directory)
        check_metric(config.optimized_metric, module, callbacks_of(trainer))
        teach(config, directory, train)
        since = time.monotonic()
        while fault := fit(trainer, module, data, ckpt, asked or directory):
            ckpt = newest(directory) or ckpt
            rollback = go_back(fault, trainer, module, ckpt)
            data, module = build(config)
            trainer = build_trainer(config, directory)
            go_on(trainer, rollback)
        if not any(c.step == trainer.global_step for c in of_type(callbacks_of(trainer), Evaluation)):
            trainer.validate(module, datamodule=data, verbose=False)
    result = summary(config, trainer, module, directory, time.monotonic() - since)
    result["metrics"] |= teacher_metrics(teacher)
    return report(config, trainer, result, directory)


def make(node: Any, **extra: Any) -> Any:
    """What a config describes. Containers become plain ones: OmegaConf would take dataclasses for configs."""
    return instantiate(node, **extra, _convert_="all")


def part(key: str, node: Any, kind: type[T], **extra: Any) -> T:
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


def fit(
    trainer: Trainer, module: Module, data: DataModule, ckpt: Path | None, asked: Path
) -> Diverged | None:
    """Train to the end, or until asked to stop, or until it goes wrong; what is good is on disk then."""
    try:
        trainer.fit(module, datamodule=data, ckpt_path=ckpt, weights_only=True)
    except Interrupted as signal:
        again = f"go on with the same command, run_dir={asked} and ckpt_path=last"
        if trainer.is_global_zero:
            print(f"stopped by {signal} at step {trainer.global_step}, saved; {again}", file=sys.stderr)
        sys.exit(signal.status)
    except Diverged as fault:
        return fault.with_traceback(None)  # whose frames hold on to weights


@contextmanager
def hushed() -> Iterator[None]:
    """Without what does not concern the user: advice on loaders and devices, libraries' deprecations."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # ours need none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # by torch, at its first derivative
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # judges add up by themselves
        yield


def run_directory() -> Path:
    """The one directory a run works in, which Hydra has made."""
    return Path(HydraConfig.get().runtime.output_dir)


def experiment() -> str | None:
    """Name of the experiment that was chosen."""
    return HydraConfig.get().runtime.choices.get("experiment")


def resume_from(ckpt_path: str | None, directory: Path) -> Path | None:
    """The checkpoint to go on from. A directory that holds a run is never begun afresh unasked."""
    found = newest(directory)
    if ckpt_path != "last":
        given = Path(ckpt_path) if ckpt_path else None
        if found is not None and (given is None or given.resolve().parent != found.resolve().parent):
            raise UserError(
                f"run_dir={directory} holds a run already: go on with ckpt_path=last, or choose another"
            )
        return given
    print(f"resuming from {found}" if found else f"no checkpoint in {directory} yet: starting afresh")
    return found


def build(config: DictConfig) -> tuple[DataModule, Module]:
    """Data and module. The same config builds the same weights."""
    torch.manual_seed(config.seed)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    data, copies = part("data", config.data, DataModule), TRAINING
    if not OmegaConf.is_missing(config.net, "shape"):  # a checkpoint's: data are read when they are asked for
        copies = 1
        data.expect(config.net.shape, config.net.classes)
    with open_dict(config):
        config.net.shape, config.net.classes = list(data.shape), data.classes
    check_network(lambda: part("net", config.net, nn.Module), copies)
    if data.flip and not data.is_image:
        raise UserError("data.flip=true mirrors images, and these are points: set data.flip=false")
    denoiser = part("denoiser", config.denoiser, Denoiser)
    if config.compile:
        denoiser.net.compile()  # in place, so that checkpoint keys stay what they are
    return data, part("module", config.module, Module, denoiser=denoiser)


def build_trainer(config: DictConfig, directory: Path) -> Trainer:
    """The trainer with its callbacks, one logger and atomic checkpoints."""
    options = {
        "callbacks": build_callbacks(config),
        "logger": part("logger", config.logger, Logger),
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": str(directory),
        # Lightning counts batches here, the config optimiser steps.
        "val_check_interval": config.trainer.val_check_interval * config.trainer.accumulate_grad_batches,
    }
    return part("trainer", config.trainer, Trainer, **options)


def build_callbacks(config: DictConfig) -> list[Callback]:
    """The callbacks of the config, in its order, without those set to null; and the keeper of the config."""
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    named = [(name, node) for name, node in config.callbacks.items() if node is not None]
    built = [part(f"callbacks.{name}", node, Callback) for name, node in named]
    return [*built, KeepConfig({str(name): value for name, value in plain.items()}, experiment())]


def summary(
    config: DictConfig, trainer: Trainer, module: Module, directory: Path, seconds: float
) -> dict[str, Any]:
    """What the run was and what came of it."""
    raw = module.denoiser.state_dict()
    hashes = {"raw": weights_sha256(raw)}
    for ema in of_type(callbacks_of(trainer), EMA):
        hashes |= {name: weights_sha256({**raw, **kept}) for name, kept in ema.averages.items()}
    picture = directory / "samples" / f"{next(iter(module.samplers))}.png"
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}
    return {
        "experiment": experiment(),
        "metrics": metrics,
        "numbers": [
            number.plain(name) for name, number in numbers(config, trainer, module, metrics, hashes).items()
        ],
        "steps": trainer.global_step,
        "images": trainer.global_step * config.data.batch_size,
        "rollbacks": rollbacks(trainer),
        "seconds": seconds,
        "parameters": count(module),
        **costs(trainer, module),
        "weights_sha256": hashes,
        "device": device_name(module.device),
        "precision": str(config.trainer.precision),
        "seed": config.seed,
        **environment(),
        "paths": {
            "picture": str(picture) if picture.is_file() else None,
            "checkpoint": str(newest(directory)),
            "tensorboard": str(directory / "tensorboard"),
        },
    }


def numbers(
    config: DictConfig,
    trainer: Trainer,
    module: Module,
    metrics: Mapping[str, float],
    hashes: Mapping[str, str],
) -> dict[str, Number]:
    """The judge's numbers with their cards, by sampler; none where nobody judges."""
    data = data_of(trainer)
    ema = next((ema.evaluate for ema in of_type(callbacks_of(trainer), EMA)), "raw")
    what = model(experiment(), trainer.global_step, hashes[ema], config.denoiser, data)
    program, found = commit(), dict[str, Number]()
    for judge in (callback.judge for callback in of_type(callbacks_of(trainer), Evaluation)):
        for name, recipe in module.samplers.items():
            how = protocol(recipe, judge, data, data.samples, data.seed, str(config.trainer.precision), ema)
            named = {k.removesuffix(f"/{name}"): v for k, v in metrics.items() if k.endswith(f"/{name}")}
            found[name] = Number(named, Card(what, how, code(), program))
    return found


def costs(trainer: Trainer, module: Module) -> dict[str, Any]:
    """Memory of a training step, and network calls of one and of a sample; None where nobody has watched."""
    watched = next(iter(of_type(callbacks_of(trainer), Costs)), Costs())
    sampling = sampling_calls(module.samplers, data_of(trainer).shape)
    return {"memory_mib": watched.memory_mib, "calls": {"training": watched.calls, "sampling": sampling}}


def report(config: DictConfig, trainer: Trainer, result: dict[str, Any], directory: Path) -> float | None:
    """Write and print the result, and hand the row for the HParams tab to TensorBoard."""
    if not trainer.is_global_zero:
        return None
    write_result(directory, result)
    for board in boards(trainer):
        board.log_hyperparams(hyperparameters(config), result["metrics"], step=trainer.global_step)
        board.save()
    print(f"{table(result['metrics'])}{where(result)}\n{line(result)}")
    return pick(config.optimized_metric, result["metrics"])


def hyperparameters(config: DictConfig) -> dict[str, Any]:
    """The columns of the HParams tab: what every run has, and whatever the command line changed."""
    given = [override.partition("=")[0].lstrip("+") for override in HydraConfig.get().overrides.task]
    keys = [*COLUMNS, *(key for key in given if key not in {"run_dir", "ckpt_path"})]
    row: dict[str, Any] = {"experiment": experiment()}
    for key in keys:
        value = OmegaConf.select(config, key)
        if isinstance(value, str | int | float | bool):
            row[key] = value
    return row


def check_metric(name: str | None, module: Module, callbacks: list[Callback]) -> None:
    """Refuse early a metric that no sampler gives its name to, and no callback lists in `measures`.

    Without any sampler there is none.
    """
    if not module.samplers:
        raise UserError("samplers: all of them are null, and nothing could be validated: keep at least one")
    known = {*module.samplers, *(name for c in callbacks for name in getattr(c, "measures", ()))}
    if name is not None and name.rpartition("/")[2] not in known:
        raise UserError(f"optimized_metric={name} is not measured: {nearest(name, known)}")


def count(module: Module) -> int:
    """Learned parameters of the network."""
    return sum(p.numel() for p in module.denoiser.parameters())


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The callbacks of a run."""
    return trainer.callbacks  # type: ignore[attr-defined]


def of_type(items: Iterable[Any], kind: type) -> list[Any]:
    """Those of a kind."""
    return [item for item in items if isinstance(item, kind)]
