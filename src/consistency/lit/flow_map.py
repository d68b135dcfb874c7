"""Flow maps f(x, t, s), learned from data or from a teacher: consistency methods with two times."""

from collections.abc import Callable
from typing import Unpack, cast

from torch import Tensor

from consistency.lit.augmented import fit_augmentation
from consistency.lit.consistency import ConsistencyArguments, ConsistencyModule
from consistency.lit.data.module import data_of
from consistency.lit.distillation import ConsistencyDistillation
from consistency.lit.training import ConsistencyTraining
from consistency.model.maps import DenoiserLike, FlowMap
from consistency.objectives.flow import Flow, TrainingFlow
from consistency.objectives.two_time import MapObjective


class FlowMapModule(ConsistencyModule):
    """What training and distillation of flow maps share: the law of both levels."""

    learns = FlowMap
    augments = True

    def setup(self, stage: str) -> None:
        """Refuse an augmentation that does not fit the data or the network, before anything is written."""
        if stage == "fit":
            augmentation = cast(MapObjective, self.objective).augmentation
            fit_augmentation(augmentation, self.model.net, data_of(self.trainer).shape)
        super().setup(stage)

    def check_flow(self, flow: object) -> None:
        """Refuse a flow, or a map, that does not suit the objective."""
        cast(MapObjective, self.objective).check(cast(FlowMap, self.model), flow)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells of (t, s) at step k -> [E-1, E-1]."""
        return cast(MapObjective, self.objective).joint_mass(edges, k)


class FlowMapTraining(FlowMapModule, ConsistencyTraining):
    """MeanFlow (2505.13447) and its kin: `ConsistencyTraining` of a map with two times.

    Args:
        flow: where x_t goes, given the data.
        start: () -> a teacher or a consistency function, with whose weights training begins; None for none.
        **run: arguments of `ConsistencyModule`: objective, target and those of `Module`.
    """

    def __init__(
        self,
        flow: TrainingFlow,
        start: Callable[[], DenoiserLike] | None = None,
        **run: Unpack[ConsistencyArguments],
    ) -> None:
        ConsistencyTraining.__init__(self, flow, start, **run)
        self.check_flow(flow)


class FlowMapDistillation(FlowMapModule, ConsistencyDistillation):
    """Distillation of a denoiser into a flow map (2506.14603): arguments are those of `Distillation`."""

    def follow(self, flow: Flow) -> None:
        """Keep it, if it suits the objective."""
        self.check_flow(flow)
        super().follow(flow)
