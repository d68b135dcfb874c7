"""Flow maps f(x, t, s), learned from data or from a teacher: the steps of consistency methods, with two times."""

from collections.abc import Callable
from typing import Unpack

from consistency.lit.consistency import ConsistencyArguments
from consistency.lit.distillation import ConsistencyDistillation
from consistency.lit.training import ConsistencyTraining
from consistency.model.maps import DenoiserLike, FlowMap
from consistency.objectives.flow import Flow, TrainingFlow


class FlowMapTraining(ConsistencyTraining):
    """MeanFlow (2505.13447) and its kin: `ConsistencyTraining` of a map with two times.

    Args:
        flow: where x_t goes, given the data.
        start: () -> a teacher or a consistency function, with whose weights training begins; None to begin afresh.
        **run: arguments of `ConsistencyModule`: objective, target and those of `Module`.
    """

    learns = FlowMap

    def __init__(
        self,
        flow: TrainingFlow,
        start: Callable[[], DenoiserLike] | None = None,
        **run: Unpack[ConsistencyArguments],
    ) -> None:
        super().__init__(flow, start, **run)
        self.objective.check(self.model, flow)  # type: ignore[attr-defined]


class FlowMapDistillation(ConsistencyDistillation):
    """Distillation of a denoiser into a flow map (2506.14603): arguments are those of `Distillation`."""

    learns = FlowMap

    def follow(self, flow: Flow) -> None:
        """Keep it, if it suits the objective."""
        self.objective.check(self.model, flow)  # type: ignore[attr-defined]
        super().follow(flow)
