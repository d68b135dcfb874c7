"""The result of a training run: its result.json, the lines on the terminal, and the end of its logs."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import Trainer
from omegaconf import DictConfig
from torch import nn

from consistency.build import callbacks_of, experiment_name, of_type, plain_config
from consistency.errors import Spoiled, UserError
from consistency.files.checkpoints import newest
from consistency.lit.callbacks.averages import EMA
from consistency.lit.callbacks.costs import Costs
from consistency.lit.callbacks.evaluation import Evaluation
from consistency.lit.callbacks.fall import Fall
from consistency.lit.callbacks.history import History, total_images, total_seconds
from consistency.lit.callbacks.hparams import end_rows
from consistency.lit.callbacks.validation import validation_of
from consistency.lit.callbacks.verdict import verdict_of
from consistency.lit.data.module import data_of
from consistency.lit.loggers.base import log, places
from consistency.lit.module import Module
from consistency.lit.rollback import rollbacks
from consistency.metrics.card import Card, Number, code_version
from consistency.metrics.choice import pick
from consistency.metrics.protocol import model, protocol
from consistency.result import (
    closing_lines,
    commit,
    device_name,
    metrics_table,
    versions_and_commit,
    write_result,
)
from consistency.teachers.debugged import debug_of
from consistency.tensor import weights_sha256


def summarise(config: DictConfig, trainer: Trainer, module: Module, directory: Path) -> dict[str, Any]:
    """The content of result.json."""
    segments = next(iter(of_type(callbacks_of(trainer), History))).segments()
    raw = module.model.state_dict()
    hashes = {"raw": weights_sha256(raw)}
    for ema in of_type(callbacks_of(trainer), EMA):
        hashes |= {name: weights_sha256({**raw, **kept}) for name, kept in ema.averages.items()}
    picture = directory / "samples" / f"{next(iter(module.samplers))}.png"
    metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("train/")}
    return {
        "experiment": experiment_name(),
        **({"debug": option.removeprefix("debug=")} if (option := debug_of(config)) else {}),
        "role": module.model.role,
        "overrides": list(HydraConfig.get().overrides.task),
        "metrics": metrics,
        "numbers": [
            number.to_plain(name)
            for name, number in judged_numbers(config, trainer, module, metrics, hashes).items()
        ],
        "steps": trainer.global_step,
        "images": total_images(segments),
        **rollbacks(trainer),
        "verdict": verdict.to_plain() if (verdict := verdict_of(trainer)) else None,
        "seconds": total_seconds(segments),
        "validation": validation_cost(trainer),
        "segments": segments,
        "parameters": count_parameters(module.model),
        **step_costs(trainer, module),
        "weights_sha256": hashes,
        "device": device_name(module.device),
        "precision": str(config.trainer.precision),
        "seed": config.seed,
        **versions_and_commit(),
        "paths": {
            "picture": str(picture) if picture.is_file() else None,
            "checkpoint": str(newest(directory)),
            **places(trainer),
        },
    }


def judged_numbers(
    config: DictConfig,
    trainer: Trainer,
    module: Module,
    metrics: Mapping[str, float],
    hashes: Mapping[str, str],
) -> dict[str, Number]:
    """Metrics of the judge with their cards, by sampler; empty for a run without a judge."""
    data = data_of(trainer)
    ema = next((ema.evaluate for ema in of_type(callbacks_of(trainer), EMA)), "raw")
    meaning = plain_config(config)["model"]
    subject = model(
        experiment_name(), module.model.role, trainer.global_step, hashes[ema], meaning, data.codec
    )
    program, numbers = commit(), dict[str, Number]()
    for judge in (callback.judge for callback in of_type(callbacks_of(trainer), Evaluation)):
        for name, sampler in module.samplers.items():
            how = protocol(sampler, judge, data, data.samples, data.seed, str(config.trainer.precision), ema)
            values = {k.removesuffix(f"/{name}"): v for k, v in metrics.items() if k.endswith(f"/{name}")}
            numbers[name] = Number(values, Card(subject, how, code_version(), program))
    return numbers


def validation_cost(trainer: Trainer) -> dict[str, Any] | None:
    """Seconds of validations, in total and by work, and their share of the run; None if not measured."""
    validation = validation_of(trainer)
    return None if validation is None else validation.times.to_plain()


def step_costs(trainer: Trainer, module: Module) -> dict[str, Any]:
    """Peak memory of a training step, and network calls of a step and of a sample; None if not measured."""
    measured = next(iter(of_type(callbacks_of(trainer), Costs)), Costs())
    sampling = {name: sampler.nfe for name, sampler in module.samplers.items()}
    return {"memory_mib": measured.memory_mib, "calls": {"training": measured.calls, "sampling": sampling}}


def count_parameters(f: object) -> int:
    """Number of parameters of a network; 0 for a closed form."""
    return sum(p.numel() for p in f.parameters()) if isinstance(f, nn.Module) else 0


def write_and_print(
    config: DictConfig, trainer: Trainer, result: dict[str, Any], directory: Path
) -> float | None:
    """Write and print the result, log metrics that are not logged yet, and close the logs.

    Returns:
        The metric that a sweep optimises; None on all processes but the first.
    """
    if not trainer.is_global_zero:
        return None
    metrics = result["metrics"]
    unlogged = [name for name in metrics if name not in trainer.logged_metrics]  # those of the teacher
    log(trainer, {name: metrics[name] for name in unlogged}, trainer.global_step)
    for logger in trainer.loggers:
        logger.save()
    verdict = verdict_of(trainer)
    end_rows(trainer, failed=verdict is not None and verdict.fault() is not None)
    write_result(directory, result)  # last: a run with a result is complete
    print(f"{metrics_table(metrics)}{closing_lines(result, directory)}")
    if (validation := validation_of(trainer)) is not None:
        print(validation.times.line())
    return pick(config.optimized_metric, result["metrics"])


def conclude_run(trainer: Trainer, lr: float | None, directory: Path) -> None:
    """Report a fault that the verdict has found, once everything is written.

    Raises:
        UserError: it has found one, and the run is not part of a sweep, where a line is printed; or the loss
            does not fall with debug=overfit.
    """
    for fall in of_type(callbacks_of(trainer), Fall):
        if trainer.is_global_zero and not fall.falls():
            raise UserError(
                f"the loss on one batch does not fall in {trainer.global_step} steps: try another "
                "optimizer.lr or more debug.run.steps, or look for a fault"
            )
    verdict = verdict_of(trainer)
    fault = verdict.fault() if verdict and trainer.is_global_zero else None
    if fault is None:
        return
    rate = "the learning rate" if lr is None else f"optimizer.lr={lr:g}"
    remedy = f"begin anew with less than {rate}, and look at loss_by_sigma in its log"
    if HydraConfig.get().mode == RunMode.RUN:
        raise Spoiled(f"the run in {directory}: {fault}; {remedy}")
    print(f"warning: the run in {directory}: {fault}; {remedy}", file=sys.stderr, flush=True)
