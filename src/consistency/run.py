"""A training run from its config to its result."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Callback, Trainer
from omegaconf import DictConfig, OmegaConf

from consistency.build import (
    build,
    build_keepers,
    build_trainer,
    callbacks_of,
    experiment,
    of_type,
    part,
    run_directory,
)
from consistency.command.checks import holds_a_run
from consistency.continuation import (
    Continuation,
    compared,
    given_keys,
    nothing_left,
    outcome,
    place_of,
    value_of,
)
from consistency.continuation.again import command_of
from consistency.continuation.differences import START
from consistency.debug import Short
from consistency.errors import UserError, nearest
from consistency.files.directory import alone_in
from consistency.lit.callbacks.curves import rewind
from consistency.lit.callbacks.evaluation import Evaluation, check_judges
from consistency.lit.callbacks.guard import Diverged
from consistency.lit.callbacks.history import Clock, seconds, segments_of
from consistency.lit.callbacks.interruption import Interrupted
from consistency.lit.data.identity import check_identity, identity
from consistency.lit.data.module import DataModule
from consistency.lit.loggers.base import LOG
from consistency.lit.module import Module
from consistency.lit.rollback import check_allowed, go_back, go_on, history
from consistency.lit.standing import again, ended, so_far
from consistency.process.lifeline import report as report_failure
from consistency.process.rank import speaks_for
from consistency.process.stops import account, settle
from consistency.schema.check import check_composed
from consistency.schema.hardware import check_counts, check_hardware
from consistency.schema.swaps import drop_replaced
from consistency.summary import conclude, report, summary
from consistency.sweep.single import check_free, check_single
from consistency.teach import find_teacher, say, teach, teacher_metrics
from consistency.teachers.checkpoint import LAST, check_fits, newest, of_run, read_checkpoint, whole_of


def train(config: DictConfig, asked: Path | None = None) -> float | None:
    """Train as configured, or go on training; the metric that a sweep optimises comes back.

    Args:
        config: as composed.
        asked: the directory that the user works in, where it is not the run's own.
    """
    for line in drop_replaced(config):
        say(line)
    short = shortened(config)
    check_composed(config, "train")
    directory = run_directory()
    check_free(directory)
    asked = asked or directory
    with alone_in(directory, speaks_for(config.trainer)), account(partial(so_far, directory, asked)):
        value = trained(config, directory, asked)
        for line in short.rounds_left(config) if short is not None else ():
            say(line)
            value = trained(config, directory, asked)
        if short is not None and directory == asked:  # of a teacher, the student's own result follows
            say(f"debug={short.name}: passed, {config.trainer.max_steps} steps in {short.rounds} round(s)")
        return value


def shortened(config: DictConfig) -> Short | None:
    """The few steps that a config with `debug.run` is cut to; None for any other run."""
    node = OmegaConf.select(config, "debug.run")
    if node is None:
        return None
    short = part("debug.run", node, Short)
    say(short.shrink(config, given_keys(HydraConfig.get().overrides.task)))
    return short


def trained(config: DictConfig, directory: Path, asked: Path) -> float | None:
    """The same in a directory that no other run works in."""
    ckpt, kept = resume_from(config.ckpt_path, directory) or (None, None)
    check_counts(config.trainer)
    check_hardware(config.trainer)
    teacher = find_teacher(config, directory)
    going_on = compare(config, kept, ckpt, directory)
    if end := nothing_left(config, going_on, directory):
        say(end)
        report_failure(failed=end, state=UserError.state)  # if no result of these steps is there
        return value_of(config.optimized_metric, outcome(directory).get("metrics", {}))
    if kept is not None:
        check_allowed(kept, OmegaConf.select(config, "callbacks.guard.rollbacks"), directory)
    for line in filter(None, (going_on.line(config), history(kept))):
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
        check_judges(callbacks_of(trainer), data)
        data.check_split(trainer.world_size, trainer.accumulate_grad_batches)
        teach(config, directory, train)
        clock.start()
        rewind(trainer, *((kept.get(LOG), kept["global_step"]) if kept else ({}, 0)))
        del kept
        given = ckpt if ckpt and is_given(ckpt, going_on, directory) else None
        while fault := fit(trainer, module, data, ckpt, asked):
            back = go_back(fault, trainer, module, directory, given)
            ckpt = back.state.path
            data, module = build(config)
            trainer = build_trainer(config, directory, keepers())
            go_on(trainer, back)
        if not any(c.step == trainer.global_step for c in of_type(callbacks_of(trainer), Evaluation)):
            trainer.validate(module, datamodule=data, verbose=False)
    result = summary(config, trainer, module, directory)
    result["metrics"] |= teacher_metrics(teacher)
    value = report(config, trainer, result, directory)
    if directory == asked:  # a teacher's student has yet to learn
        settle(partial(ended, directory))
    conclude(trainer, config.optimizer.get("lr"), directory)
    return value


def compare(
    config: DictConfig, checkpoint: dict[str, Any] | None, ckpt: Path | None, directory: Path
) -> Continuation:
    """What goes on differently from the run of the checkpoint; another run is refused."""
    if checkpoint is None or ckpt is None:
        return Continuation()
    overrides = list(HydraConfig.get().overrides.task)
    line = partial(command_of, home(ckpt).parent, overrides)
    return compared(config, experiment(), checkpoint, place_of(ckpt, directory), given_keys(overrides), line)


def is_given(ckpt: Path, going_on: Continuation, directory: Path) -> bool:
    """Whether a run began with a checkpoint: of another directory, or in place of its teacher's weights."""
    elsewhere = ckpt.resolve().parent != (directory / LAST.parent).resolve()
    return elsewhere or any(change.key == START for change in going_on.changes)


def check_metric(name: str | None, module: Module, callbacks: list[Callback]) -> None:
    """Refuse early a metric that no sampler gives its name to, and no callback lists in `measures`."""
    if not module.samplers:
        raise UserError("samplers: all of them are null, and nothing could be validated: keep at least one")
    known = {*module.samplers, *(name for c in callbacks for name in getattr(c, "measures", ()))}
    if name is not None and name.rpartition("/")[2] not in known:
        raise UserError(f"optimized_metric={name} is not measured: {nearest(name, known)}")


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


def resume_from(ckpt_path: str | None, directory: Path) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint to go on from, and its content, verified; None for a run that begins.

    Raises:
        UserError: the directory holds a run that was not named, or the checkpoint cannot be used.
    """
    found = newest(directory)
    if ckpt_path != "last":
        given = Path(ckpt_path) if ckpt_path else None
        if found is not None and (given is None or home(given) != found.resolve().parent):
            raise holds_a_run(directory)
        return None if given is None else named_in(given)
    whole = whole_of(directory, "ckpt_path")
    say(f"resuming from {whole[0]}" if whole else f"no checkpoint in {directory} yet: starting afresh")
    return whole


def named_in(given: Path) -> tuple[Path, dict[str, Any]]:
    """A checkpoint that was named by itself, or by the directory of its run; and its content."""
    check_single(given, "ckpt_path")
    return of_run(given, "ckpt_path") if given.is_dir() else (given, read_checkpoint(given))


def home(given: Path) -> Path:
    """The folder that such a checkpoint lies in."""
    return (given / LAST.parent if given.is_dir() else given.parent).resolve()
