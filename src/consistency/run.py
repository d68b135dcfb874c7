"""From a config to a result: compose, build, run, write result.json."""

import logging
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from lightning import Callback, Trainer
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf, open_dict
from torch import nn

from consistency.continuation import (
    Continuation,
    compared,
    given_keys,
    nothing_left,
    outcome,
    place_of,
    value_of,
)
from consistency.errors import UserError, check_seed, nearest
from consistency.lit.boards import boards, rewind
from consistency.lit.callbacks.agreement import Agreement
from consistency.lit.callbacks.averages import EMA
from consistency.lit.callbacks.checkpoints import KeepConfig
from consistency.lit.callbacks.costs import Costs, sampling_calls
from consistency.lit.callbacks.curves import Curves
from consistency.lit.callbacks.evaluation import Evaluation
from consistency.lit.callbacks.guard import Diverged
from consistency.lit.callbacks.history import Clock, History, images, seconds, segments_of
from consistency.lit.callbacks.interruption import Interrupted, Interruption
from consistency.lit.callbacks.verdict import verdict_of
from consistency.lit.checkpoint import AtomicCheckpointIO
from consistency.lit.data.identity import Identity, check_identity, identity
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.directory import alone_in
from consistency.lit.footprint import TRAINING, check_network
from consistency.lit.hardware import check_counts, check_hardware
from consistency.lit.module import Module
from consistency.lit.protocol import model, protocol
from consistency.lit.rollback import go_back, go_on, rollbacks
from consistency.metrics.card import Card, Number, code
from consistency.metrics.choice import pick
from consistency.metrics.processes import from_first
from consistency.model.denoiser import Denoiser
from consistency.options import check_threads
from consistency.rank import speaks_for
from consistency.result import commit, device_name, environment, line, table, where, write_result
from consistency.schema import check_composed
from consistency.standing import again, ended, so_far
from consistency.stops import account, settle
from consistency.teach import find_teacher, say, teach, teacher_metrics
from consistency.teachers.checkpoint import check_fits, newest, newest_whole, read_checkpoint
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
    asked = asked or directory
    with alone_in(directory, speaks_for(config.trainer)), account(partial(so_far, directory, asked)):
        return trained(config, directory, asked)


def trained(config: DictConfig, directory: Path, asked: Path) -> float | None:
    """The same in a directory that no other run works in."""
    ckpt = resume_from(config.ckpt_path, directory)
    kept = read_checkpoint(ckpt) if ckpt else None
    check_counts(config.trainer)
    check_hardware(config.trainer)
    teacher = find_teacher(config, directory)
    going_on = compare(config, kept, ckpt, directory)
    if end := nothing_left(config, going_on, directory):
        say(end)
        return value_of(config.optimized_metric, outcome(directory).get("metrics", {}))
    if line := going_on.line(config):
        say(line)
    data, module = build(config)
    about = identity(data)
    if ckpt is not None and kept is not None:
        check_fits(ckpt, kept["state_dict"], module)
        check_identity(kept.get("data", {}), about, going_on.where)
    with hushed():
        clock = Clock(seconds(segments_of(kept)) if kept else 0.0)
        keepers = partial(build_keepers, config, about, going_on.changed, clock)
        trainer = build_trainer(config, directory, keepers())
        check_metric(config.optimized_metric, module, callbacks_of(trainer))
        teach(config, directory, train)
        clock.start()
        rewind(trainer, kept)
        del kept
        while fault := fit(trainer, module, data, ckpt, asked):
            ckpt = from_first(lambda: newest_whole(directory)) or ckpt
            rollback = go_back(fault, trainer, module, ckpt)
            data, module = build(config)
            trainer = build_trainer(config, directory, keepers())
            go_on(trainer, rollback)
        if not any(c.step == trainer.global_step for c in of_type(callbacks_of(trainer), Evaluation)):
            trainer.validate(module, datamodule=data, verbose=False)
    result = summary(config, trainer, module, directory)
    result["metrics"] |= teacher_metrics(teacher)
    value = report(config, trainer, result, directory)
    conclude(trainer, config.optimizer.get("lr"), directory)
    return value


def compare(
    config: DictConfig, checkpoint: dict[str, Any] | None, ckpt: Path | None, directory: Path
) -> Continuation:
    """What goes on differently from the run of the checkpoint; another run is refused."""
    if checkpoint is None or ckpt is None:
        return Continuation()
    given = given_keys(HydraConfig.get().overrides.task)
    return compared(config, experiment(), checkpoint, place_of(ckpt, directory), given)


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
        if signal.step is None:
            raise
        if trainer.is_global_zero:
            print(f"stopped by {signal} at step {signal.step}, saved; {again(asked)}", file=sys.stderr)
        sys.exit(signal.status if trainer.is_global_zero else 0)  # or Lightning would kill the first process
    except Diverged as fault:
        return fault.with_traceback(None)  # whose frames hold on to weights


@contextmanager
def hushed() -> Iterator[None]:
    """Without what does not concern the user: advice on loaders and devices, libraries' deprecations."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # ours need none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # is said
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
    found = newest_whole(directory)
    say(f"resuming from {found}" if found else f"no checkpoint in {directory} yet: starting afresh")
    return found


def build(config: DictConfig) -> tuple[DataModule, Module]:
    """Data and module of a composed config. The same config builds the same weights."""
    begin(config.seed, config.threads)
    data = part("data", config.data, DataModule)
    with open_dict(config):
        config.net.shape, config.net.classes = list(data.shape), data.classes
    check_network(lambda: part("net", config.net, nn.Module), TRAINING)
    denoiser = compiled(part("denoiser", config.denoiser, Denoiser), config.compile)
    return data, part("module", config.module, Module, denoiser=denoiser)


def begin(seed: int, threads: int | None) -> None:
    """Seed the weights to come, and set the number of CPU threads."""
    check_seed("seed", seed)
    check_threads(threads)
    torch.manual_seed(seed)
    if threads is not None:
        torch.set_num_threads(threads)


def compiled(denoiser: Denoiser, wanted: bool) -> Denoiser:
    """The denoiser, its network compiled in place if wanted: checkpoint keys stay what they are."""
    if wanted:
        denoiser.net.compile()
    return denoiser


def build_trainer(config: DictConfig, directory: Path, keepers: list[Callback]) -> Trainer:
    """The trainer with its callbacks, one logger and atomic checkpoints."""
    options = {
        "callbacks": build_callbacks(config, directory, keepers),
        "logger": part("logger", config.logger, Logger),
        "plugins": [AtomicCheckpointIO()],
        "default_root_dir": str(directory),
        # Lightning counts batches here, the config optimiser steps.
        "val_check_interval": config.trainer.val_check_interval * config.trainer.accumulate_grad_batches,
    }
    return part("trainer", config.trainer, Trainer, **options)


def build_callbacks(config: DictConfig, directory: Path, keepers: list[Callback]) -> list[Callback]:
    """The callbacks of the config, in its order, without those set to null; and what every run has.

    What compares processes comes first; what stops the run last, so that all others have seen the step.
    """
    named = [(name, node) for name, node in config.callbacks.items() if node is not None]
    built = [part(f"callbacks.{name}", node, Callback) for name, node in named]
    stops = of_type(built, Interruption)
    others = [callback for callback in built if callback not in stops]
    return [Agreement(plain(config), directory, commit), *others, *keepers, *stops]


def build_keepers(
    config: DictConfig, about: Identity, changed: dict[str, list[Any]], clock: Clock
) -> list[Callback]:
    """What keeps the config, the curves of training and the history of a run in its checkpoints."""
    facts = {"commit": commit(), "batch_size": config.data.batch_size}
    return [
        KeepConfig(plain(config), experiment(), about),
        Curves(),
        History(facts | {"precision": str(config.trainer.precision)}, changed, device_name, clock),
    ]


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain data, resolved."""
    found = OmegaConf.to_container(config, resolve=True)
    assert isinstance(found, dict)
    return {str(name): value for name, value in found.items()}


def summary(config: DictConfig, trainer: Trainer, module: Module, directory: Path) -> dict[str, Any]:
    """What the run was and what came of it."""
    segments = next(iter(of_type(callbacks_of(trainer), History))).segments()
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
        "images": images(segments),
        "rollbacks": rollbacks(trainer),
        "verdict": verdict.plain() if (verdict := verdict_of(trainer)) else None,
        "seconds": seconds(segments),
        "segments": segments,
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
    settle(partial(ended, directory))
    for board in boards(trainer):
        board.log_hyperparams(hyperparameters(config), result["metrics"], step=trainer.global_step)
        board.save()
    print(f"{table(result['metrics'])}{where(result)}\n{line(result)}")
    return pick(config.optimized_metric, result["metrics"])


def conclude(trainer: Trainer, lr: float | None, directory: Path) -> None:
    """Say that a run has been spoiled, once everything is written.

    Raises:
        UserError: it has, and is no run of a sweep, which goes on.
    """
    verdict = verdict_of(trainer)
    fault = verdict.fault() if verdict and trainer.is_global_zero else None
    if fault is None:
        return
    rate = "the learning rate" if lr is None else f"optimizer.lr={lr:g}"
    remedy = f"begin anew with less than {rate}, and look at loss_by_sigma in TensorBoard"
    if HydraConfig.get().mode == RunMode.RUN:
        raise UserError(f"the run in {directory}: {fault}; {remedy}")
    print(f"warning: the run in {directory}: {fault}; {remedy}", file=sys.stderr, flush=True)


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
    """Refuse early a metric that no sampler gives its name to, and no callback lists in `measures`."""
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
