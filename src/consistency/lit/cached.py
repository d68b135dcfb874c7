"""Consistency distillation from rollouts on disk: the teacher works once, then goes."""

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
from consistency.watch import noted

WORKING, FULL, STOPPED = range(3)  # what the first process says to the others while it fills the store


class CachedArguments(RunArguments):
    """The arguments of `Distillation` without its objective, which must have pairs here."""

    target: Callable[[Map], Target]
    teacher: Callable[[], DenoiserLike]
    flow: Callable[[DenoiserLike], Flow]
    initialise: NotRequired[bool]


class CachedDistillation(Distillation):
    """CD (2303.01469, algorithm 2) over pairs that were rolled out beforehand.

    A finite sample of what `ConsistencyDistillation` draws afresh: of a large store, the same loss.

    Args:
        store: the rollouts.
        objective: what their ends are compared by.
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
        """Have the store filled by the first process, and keep nothing of the teacher."""
        if self.trainer.is_global_zero:
            self._fill(flow)
        else:
            wait_for_first(self.trainer.strategy)
        self.store.open(verify=self.trainer.is_global_zero)

    def _fill(self, flow: Flow) -> None:
        """Fill the store. A word at every chunk to those who wait: no collective may last half an hour."""
        strategy, data, news = self.trainer.strategy, data_of(self.trainer), STOPPED
        try:
            self.store.fill(
                flow, self.discrete, data, strategy.root_device, beat=lambda: strategy.broadcast(WORKING)
            )
            news = FULL
        finally:
            strategy.broadcast(news)

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss and t of each of as many rollouts as x has samples."""
        return self.discrete.compare(self.model, self.target, self.store.draw(len(x), draws, x.device))


def wait_for_first(strategy: Strategy) -> None:
    """Return when the store is full; leave quietly if it will not be, for the first process says why."""
    with noted():  # it decides what Ctrl-C means
        while (news := strategy.broadcast(WORKING)) == WORKING:
            pass
    if news == STOPPED:
        sys.exit(0)  # any other status would have Lightning kill the first process
