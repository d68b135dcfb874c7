"""Consistency distillation from pairs on disk, which the teacher computes once before training."""

import sys
from collections.abc import Callable
from typing import NotRequired, Unpack

from lightning.pytorch.strategies import Strategy
from torch import Tensor

from consistency.errors import UserError
from consistency.lit.data.module import data_of
from consistency.lit.data.rollouts import Store
from consistency.lit.distillation import Distillation
from consistency.lit.module import RunArguments
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike, Map
from consistency.objectives.discrete import Discrete
from consistency.objectives.flow import Flow
from consistency.objectives.target import Target
from consistency.schedule.draws import Draws
from consistency.tensor import Terms
from consistency.watch import collect_signals

WORKING, FULL, STOPPED = range(3)  # status of the store, which the first process broadcasts while it fills it


class CachedArguments(RunArguments):
    """The arguments of `Distillation` but for the objective, which must be `Discrete` here."""

    target: Callable[[Map], Target]
    teacher: Callable[[], DenoiserLike]
    flow: Callable[[DenoiserLike], Flow]
    initialise: NotRequired[bool]


class CachedDistillation(Distillation):
    """CD (2303.01469, algorithm 2) over pairs (x_t, x_r) of teacher trajectories that were computed before.

    They are a finite sample of those that `ConsistencyDistillation` draws at every step; a large store gives
    the same expected loss.

    Args:
        store: the pairs on disk.
        objective: compares the two ends of a pair.
        **run: the other arguments of `Distillation`: teacher, flow, initialise, target and those of `Module`.
    """

    def __init__(self, store: Store, objective: Discrete, **run: Unpack[CachedArguments]) -> None:
        if not isinstance(objective, Discrete):
            raise UserError(
                "method=cd_cached keeps pairs, and this objective has none: set objective=discrete"
            )
        super().__init__(objective=objective, **run)
        self.store, self.discrete = store, objective

    def follow(self, flow: Flow) -> None:
        """Fill the store on the first process, which the others wait for; the teacher is not kept."""
        if self.trainer.is_global_zero:
            self._fill(flow)
        else:
            wait_for_first(self.trainer.strategy)
        self.store.open(verify=self.trainer.is_global_zero)

    def _fill(self, flow: Flow) -> None:
        """Fill the store, and broadcast after every chunk: a collective times out after half an hour."""
        strategy, data, status = self.trainer.strategy, data_of(self.trainer), STOPPED
        try:
            self.store.fill(
                flow, self.discrete, data, strategy.root_device, beat=lambda: strategy.broadcast(WORKING)
            )
            status = FULL
        finally:
            strategy.broadcast(status)

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss [B] and t [B] of B pairs of the store; of x only their number B is used."""
        return self.discrete.compare(self.model, self.target, self.store.draw(len(x), draws, x.device))


def wait_for_first(strategy: Strategy) -> None:
    """Return when the store is full. If it will not be, exit: the first process prints the reason."""
    with collect_signals():  # the first process decides whether to stop
        while (status := strategy.broadcast(WORKING)) == WORKING:
            pass
    if status == STOPPED:
        sys.exit(0)  # any other status would have Lightning kill the first process
