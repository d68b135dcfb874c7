"""Consistency training: a one-step generator learned from data alone."""

from typing import Any

from torch import Tensor

from consistency.lit.consistency import Consistency
from consistency.objectives.flow import Flow
from consistency.schedule.draws import Draws
from consistency.tensor import Terms


class ConsistencyTraining(Consistency):
    """CT (2303.01469), iCT (2310.14189): the same step with other parts plugged in.

    Args:
        flow: where x_t goes next.
        **run: objective and target of `Consistency`, and what `Module` takes.
    """

    def __init__(self, flow: Flow, **run: Any) -> None:
        super().__init__(**run)
        self.flow = flow

    def terms(self, x: Tensor, label: Tensor | None, k: int, draws: Draws) -> Terms:
        """Loss and t of each sample."""
        return self.objective(self.denoiser, self.target, self.flow, x, label, k, draws)
