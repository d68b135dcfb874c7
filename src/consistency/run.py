"""A training run from its config to its result: `train`, `run`, which calls `prepare` and `fit`."""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from consistency.build import build, callbacks_of, run_directory
from consistency.continuation import Continuation, nothing_left, outcome, value_of
from consistency.debug import shorten
from consistency.errors import UserError
from consistency.files.directory import alone_in
from consistency.fit import Training, fit, without_advice
from consistency.lit.callbacks.curves import rewind
from consistency.lit.callbacks.evaluation import check_judges
from consistency.lit.callbacks.reports import check_metric
from consistency.lit.data.identity import identity_of
from consistency.lit.standing import ended, so_far
from consistency.process.lifeline import report as report_failure
from consistency.process.rank import speaks_for
from consistency.process.stops import account, settle
from consistency.resume import (
    Checkpoint,
    check_checkpoint,
    check_rollbacks,
    clock_of,
    compare,
    fallback_of,
    find_checkpoint,
    log_positions,
)
from consistency.schema.check import check_composed
from consistency.schema.hardware import check_counts, check_hardware
from consistency.schema.swaps import drop_replaced
from consistency.summary import conclude, report, summary
from consistency.sweep.single import check_free
from consistency.teach import find_teacher, say, teach, teacher_metrics


def train(config: DictConfig, user_directory: Path | None = None) -> float | None:
    """Train as configured, or go on training; the metric that a sweep optimises comes back.

    Args:
        config: as Hydra has composed it; parts are changed in place.
        user_directory: that the user works in, where it is not the run's own: a student's, for its teacher.
    """
    for line in drop_replaced(config):
        say(line)
    short = shorten(config)
    check_composed(config, "train")
    directory = run_directory()
    check_free(directory)
    user_directory = user_directory or directory
    with (
        alone_in(directory, speaks_for(config.trainer)),
        account(partial(so_far, directory, user_directory)),
    ):
        value = run(config, directory, user_directory)
        for line in short.rounds_left(config) if short is not None else ():
            say(line)
            value = run(config, directory, user_directory)
        if short is not None and directory == user_directory:  # after a teacher comes the student's result
            say(f"debug={short.name}: passed, {config.trainer.max_steps} steps in {short.rounds} round(s)")
        return value


def run(config: DictConfig, directory: Path, user_directory: Path) -> float | None:
    """Train to `trainer.max_steps` and write the result, in a directory that no other run works in."""
    checkpoint = find_checkpoint(config.ckpt_path, directory)
    check_counts(config.trainer)
    check_hardware(config.trainer)
    teacher = find_teacher(config, directory)
    continuation = compare(config, checkpoint, directory)
    if line := nothing_left(config, continuation, directory):
        return earlier_value(config, line, directory)
    gone_back = check_rollbacks(config, checkpoint, directory)
    for line in filter(None, (continuation.line(config), gone_back)):
        say(line)
    with without_advice():
        training = prepare(config, checkpoint, continuation, directory)
        teach(config, directory, train)
        training.clock.start()
        rewind(training.trainer, *log_positions(checkpoint))
        path, fallback = checkpoint and checkpoint.path, fallback_of(checkpoint, continuation, directory)
        del checkpoint  # its tensors, which the trainer reads from the file once more
        fit(training, path, fallback, user_directory)
    result = summary(config, training.trainer, training.module, directory)
    result["metrics"] |= teacher_metrics(teacher)
    value = report(config, training.trainer, result, directory)
    if directory == user_directory:  # after a teacher, its student has yet to be trained
        settle(partial(ended, directory))
    conclude(training.trainer, config.optimizer.get("lr"), directory)
    return value


def earlier_value(config: DictConfig, line: str, directory: Path) -> float | None:
    """Say that nothing is left to train; the metric that a sweep optimises, from the result of the run."""
    say(line)
    report_failure(failed=line, state=UserError.state)  # in case result.json is not of these steps
    return value_of(config.optimized_metric, outcome(directory).get("metrics", {}))


def prepare(
    config: DictConfig, checkpoint: Checkpoint | None, continuation: Continuation, directory: Path
) -> Training:
    """Build what is trained, and refuse what could not be trained, validated or gone on with."""
    data, module = build(config)
    identity = identity_of(data)
    check_checkpoint(checkpoint, module, identity, continuation.where)
    training = Training(config, directory, data, module, identity, continuation.changed, clock_of(checkpoint))
    callbacks = callbacks_of(training.trainer)
    check_metric(config.optimized_metric, module, callbacks)
    check_judges(callbacks, data)
    data.check_split(training.trainer.world_size, training.trainer.accumulate_grad_batches)
    return training
