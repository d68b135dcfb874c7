"""Training itself: to the last step or a signal, with a rollback to a good state after each divergence."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from consistency.build import build, build_recorders, build_trainer, callbacks_of, of_type
from consistency.errors import UserError
from consistency.lit.callbacks.evaluation import Evaluation
from consistency.lit.callbacks.history import Clock
from consistency.lit.data.identity import Identity
from consistency.lit.data.module import DataModule
from consistency.lit.divergence import Diverged
from consistency.lit.module import Module
from consistency.lit.restored import MisfitError
from consistency.lit.rollback import go_back, hand_over
from consistency.lit.standing import resume_instruction
from consistency.process.stops import Interrupted
from consistency.teachers.checkpoint import remedy


class Training:
    """The data, module and trainer of a run, built anew after each divergence.

    Args:
        config: of the run.
        directory: of the run.
        data: built from the config.
        module: built from the config.
        identity: of the data, which checkpoints keep.
        changed: key of the config -> [old, new], for values that changed since the checkpoint was written.
        clock: counts the seconds of the run.
    """

    def __init__(
        self,
        config: DictConfig,
        directory: Path,
        data: DataModule,
        module: Module,
        identity: Identity,
        changed: dict[str, list[Any]],
        clock: Clock,
    ) -> None:
        self.config, self.directory, self.clock = config, directory, clock
        self.recorders = partial(build_recorders, config, identity, changed, clock)
        self.data, self.module = data, module
        self.trainer = build_trainer(config, directory, self.recorders())

    def rebuild(self) -> None:
        """Build all three again, so that nothing refers to the old weights."""
        self.data, self.module = build(self.config)
        self.trainer = build_trainer(self.config, self.directory, self.recorders())


def fit(training: Training, checkpoint: Path | None, fallback: Path | None, user_directory: Path) -> None:
    """Train to the last step, roll back after each divergence, and validate at the last step.

    Args:
        training: data, module and trainer.
        checkpoint: file to resume from; None for a new run.
        fallback: state to roll back to while the run has saved none; see `consistency.resume.fallback_of`.
        user_directory: named in the instruction that is printed after a signal.

    Raises:
        UserError: training has diverged, and no state or no further rollback is left.
    """
    while fault := fit_once(training, checkpoint, user_directory):
        back = go_back(fault, training.trainer, training.module, training.directory, fallback)
        checkpoint = back.state.path
        training.rebuild()
        hand_over(training.trainer, back)
    trainer = training.trainer
    if not any(c.step == trainer.global_step for c in of_type(callbacks_of(trainer), Evaluation)):
        trainer.validate(training.module, datamodule=training.data, verbose=False)


def fit_once(training: Training, checkpoint: Path | None, user_directory: Path) -> Diverged | None:
    """Train to the last step, where None is returned, or to a divergence, which is returned.

    After a signal the step is finished and saved, and the process exits with the signal's status.

    Raises:
        UserError: the checkpoint does not fit the run.
    """
    trainer = training.trainer
    try:
        trainer.fit(training.module, datamodule=training.data, ckpt_path=checkpoint, weights_only=True)
    except Interrupted as signal:
        if signal.step is None:
            raise
        if trainer.is_global_zero:
            line = f"stopped by {signal} at step {signal.step}, saved; {resume_instruction(user_directory)}"
            print(line, file=sys.stderr)
        sys.exit(signal.status if trainer.is_global_zero else 0)  # or Lightning would kill the first process
    except MisfitError as fault:
        assert checkpoint is not None  # only a checkpoint can fail to fit
        raise UserError(f"ckpt_path={checkpoint} {fault}; {remedy(checkpoint)}") from fault
    except Diverged as fault:
        return fault.with_traceback(None)  # the frames of a traceback would keep the old weights in memory


@contextmanager
def library_advice_hidden() -> Iterator[None]:
    """Hide what the user cannot act on: advice on loaders and devices, deprecations in libraries."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message=".*does not have many workers.*"
        )  # batches are array slices
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # a line of
        # `consistency.continuation` reports changed callbacks
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # by torch, at its first derivative
        warnings.filterwarnings(
            "ignore", message=".*sync_dist=True.*"
        )  # judges sum over processes themselves
        yield
