"""A training run from its config to its result: `train` calls `run`, which calls `prepare` and `fit`."""

from functools import partial
from pathlib import Path

from omegaconf import DictConfig

from consistency.build import build, callbacks_of, run_directory
from consistency.continuation import Continuation, metric_value, nothing_left, read_outcome
from consistency.debug import shorten
from consistency.errors import UserError
from consistency.files.directory import alone_in
from consistency.fit import Training, fit, library_advice_hidden
from consistency.lit.callbacks.curves import rewind
from consistency.lit.callbacks.evaluation import check_judges
from consistency.lit.callbacks.reports import check_metric
from consistency.lit.data.identity import identity_of
from consistency.lit.standing import completion_line, training_progress
from consistency.process.lifeline import send_report as report_failure
from consistency.process.rank import speaks_for
from consistency.process.stops import account, settle_account
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
from consistency.summary import conclude_run, summarise, write_and_print
from consistency.sweep.single import check_free
from consistency.teach import find_teacher, print_once, teach, teacher_metrics


def train(config: DictConfig, user_directory: Path | None = None) -> float | None:
    """Train as configured, or resume, and write the result.

    Args:
        config: as Hydra has composed it; parts are changed in place.
        user_directory: the run directory that the user gave; not that of this run where a teacher is trained
            for its student.

    Returns:
        The metric that a sweep optimises, None where `optimized_metric` names none.
    """
    for line in drop_replaced(config):
        print_once(line)
    debug_run = shorten(config)
    check_composed(config, "train")
    directory = run_directory()
    check_free(directory)
    user_directory = user_directory or directory
    with (
        alone_in(directory, speaks_for(config.trainer)),
        account(partial(training_progress, directory, user_directory)),
    ):
        value = run(config, directory, user_directory)
        for line in debug_run.rounds_left(config) if debug_run is not None else ():
            print_once(line)
            value = run(config, directory, user_directory)
        if debug_run is not None and directory == user_directory:  # only once the student is trained
            print_once(
                f"debug={debug_run.name}: passed, {config.trainer.max_steps} steps in "
                f"{debug_run.rounds} round(s)"
            )
        return value


def run(config: DictConfig, directory: Path, user_directory: Path) -> float | None:
    """Train to `trainer.max_steps` and write the result; the caller holds the lock of the directory."""
    checkpoint = find_checkpoint(config.ckpt_path, directory)
    check_counts(config.trainer)
    check_hardware(config.trainer)
    teacher = find_teacher(config, directory)
    continuation = compare(config, checkpoint, directory)
    if line := nothing_left(config, continuation, directory):
        return earlier_value(config, line, directory)
    gone_back = check_rollbacks(config, checkpoint, directory)
    for line in filter(None, (continuation.line(config), gone_back)):
        print_once(line)
    with library_advice_hidden():
        training = prepare(config, checkpoint, continuation, directory)
        teach(config, directory, train)
        training.clock.start()
        rewind(training.trainer, *log_positions(checkpoint))
        path, fallback = checkpoint and checkpoint.path, fallback_of(checkpoint, continuation, directory)
        del checkpoint  # frees its tensors: the trainer reads the file again
        fit(training, path, fallback, user_directory)
    result = summarise(config, training.trainer, training.module, directory)
    result["metrics"] |= teacher_metrics(teacher)
    value = write_and_print(config, training.trainer, result, directory)
    if directory == user_directory:  # otherwise the student of this teacher has yet to be trained
        settle_account(partial(completion_line, directory))
    conclude_run(training.trainer, config.optimizer.get("lr"), directory)
    return value


def earlier_value(config: DictConfig, line: str, directory: Path) -> float | None:
    """Report that nothing is left to train; the metric that a sweep optimises, from result.json."""
    print_once(line)
    report_failure(failed=line, state=UserError.state)  # holds if result.json is of other steps
    return metric_value(config.optimized_metric, read_outcome(directory).get("metrics", {}))


def prepare(
    config: DictConfig, checkpoint: Checkpoint | None, continuation: Continuation, directory: Path
) -> Training:
    """Build data, module and trainer, and refuse what could not be trained, validated or resumed."""
    data, module = build(config)
    identity = identity_of(data)
    check_checkpoint(checkpoint, module, identity, continuation.where)
    training = Training(config, directory, data, module, identity, continuation.changed, clock_of(checkpoint))
    callbacks = callbacks_of(training.trainer)
    check_metric(config.optimized_metric, module, callbacks)
    check_judges(callbacks, data)
    data.check_split(training.trainer.world_size, training.trainer.accumulate_grad_batches)
    return training
