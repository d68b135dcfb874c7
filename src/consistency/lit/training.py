"""Consistency training: a one-step generator that is trained on data, without a teacher's trajectories."""

from collections.abc import Callable
from typing import Unpack

from torch import Tensor

from consistency.errors import check_call
from consistency.lit.consistency import ConsistencyArguments, ConsistencyModule, check_teacher_codec
from consistency.lit.data.module import data_of
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.objectives.flow import TrainingFlow
from consistency.schedule.draws import Draws
from consistency.tensor import Terms


class ConsistencyTraining(ConsistencyModule):
    """CT (2303.01469), iCT (2310.14189), ECT (2406.14548), sCT (2410.11081): they differ in their objectives.

    Args:
        flow: takes x_t to the lower noise level of a pair, by the data.
        start: () -> a teacher whose weights training starts from; None for random weights.
        **run: arguments of `ConsistencyModule`: objective, target and those of `Module`.
    """

    def __init__(
        self,
        flow: TrainingFlow,
        start: Callable[[], DenoiserLike] | None = None,
        **run: Unpack[ConsistencyArguments],
    ) -> None:
        super().__init__(**run)
        if start is not None:
            check_call("teacher", start)
        self.flow, self.start = flow, start

    def setup(self, stage: str) -> None:
        """Copy the teacher's weights; a checkpoint to resume from is read after this."""
        if stage == "fit" and self.start is not None:
            D = self.start()
            check_teacher_codec(D, data_of(self.trainer).codec)
            self.start_from(D)

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss [B] and t [B] of each sample of x [B, ...] at step k."""
        flow = self.flow.given(lambda n: data_of(self.trainer).some(n, k, x.device))
        return self.objective(self.model, self.target, flow, x, c, k, draws)
