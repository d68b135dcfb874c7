"""Training itself: to the last step, back to a good state after a divergence, or until told to stop."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from consistency.build import build, build_keepers, build_trainer, callbacks_of, of_type
from consistency.errors import UserError
from consistency.lit.callbacks.evaluation import Evaluation
from consistency.lit.callbacks.history import Clock
from consistency.lit.data.identity import Identity
from consistency.lit.data.module import DataModule
from consistency.lit.divergence import Diverged
from consistency.lit.module import Module
from consistency.lit.restored import MisfitError
from consistency.lit.rollback import go_back, go_on
from consistency.lit.standing import how_to_go_on
from consistency.process.stops import Interrupted
from consistency.teachers.checkpoint import remedy


class Training:
    """What Lightning trains with: data, module and trainer, built anew after each divergence.

    Args:
        config: of the run.
        directory: of the run.
        data: built from the config.
        module: likewise.
        identity: of the data, for checkpoints.
        changed: key -> [old, new], of the config since the checkpoint that the run goes on from.
        clock: of the run.
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
        self.keepers = partial(build_keepers, config, identity, changed, clock)
        self.data, self.module = data, module
        self.trainer = build_trainer(config, directory, self.keepers())

    def rebuild(self) -> None:
        """Build the same again; nothing here refers to the old weights afterwards."""
        self.data, self.module = build(self.config)
        self.trainer = build_trainer(self.config, self.directory, self.keepers())


def fit(training: Training, checkpoint: Path | None, fallback: Path | None, user_directory: Path) -> None:
    """Train to the last step, going back after each divergence, and validate there.

    Args:
        training: of which the trainer ends at the last step.
        checkpoint: to go on from; None to begin.
        fallback: that checkpoint, if it is no state of this run itself; see `consistency.resume.fallback_of`.
        user_directory: named in the command that goes on after a signal.

    Raises:
        UserError: training has diverged, and there is no state to go back to, or no rollback left.
    """
    while fault := fit_once(training, checkpoint, user_directory):
        back = go_back(fault, training.trainer, training.module, training.directory, fallback)
        checkpoint = back.state.path
        training.rebuild()
        go_on(training.trainer, back)
    trainer = training.trainer
    if not any(c.step == trainer.global_step for c in of_type(callbacks_of(trainer), Evaluation)):
        trainer.validate(training.module, datamodule=training.data, verbose=False)


def fit_once(training: Training, checkpoint: Path | None, user_directory: Path) -> Diverged | None:
    """Train until the last step, a signal or a divergence, which comes back; states are on disk then.

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
            line = f"stopped by {signal} at step {signal.step}, saved; {how_to_go_on(user_directory)}"
            print(line, file=sys.stderr)
        sys.exit(signal.status if trainer.is_global_zero else 0)  # or Lightning would kill the first process
    except MisfitError as fault:
        assert checkpoint is not None  # which alone is taken up
        raise UserError(f"ckpt_path={checkpoint} {fault}; {remedy(checkpoint)}") from fault
    except Diverged as fault:
        return fault.with_traceback(None)  # the frames of a traceback would keep the old weights in memory


@contextmanager
def without_advice() -> Iterator[None]:
    """Silence what does not concern the user: advice on loaders and devices, deprecations in libraries."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")  # ours need none
        warnings.filterwarnings("ignore", message=".*LeafSpec.*")
        warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint.*")  # is said
        warnings.filterwarnings("ignore", message=".*torch.jit.script.*")  # by torch, at its first derivative
        warnings.filterwarnings("ignore", message=".*sync_dist=True.*")  # judges add up by themselves
        yield
