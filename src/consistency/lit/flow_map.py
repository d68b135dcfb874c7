"""Flow maps f(x, t, s), learned from data or from a teacher: consistency methods with two times."""

from collections.abc import Callable
from typing import Unpack, cast

from torch import Tensor

from consistency.lit.augmented import fit_augmentation
from consistency.lit.consistency import ConsistencyArguments, ConsistencyModule
from consistency.lit.data.module import data_of
from consistency.lit.distillation import ConsistencyDistillation
from consistency.lit.module import RunArguments
from consistency.lit.training import ConsistencyTraining
from consistency.model.maps import DenoiserLike, FlowMap, Map
from consistency.objectives.flow import Flow, TrainingFlow
from consistency.objectives.target import Target
from consistency.objectives.two_time import MapObjective


class FlowMapArguments(RunArguments):
    """The arguments of a `ConsistencyModule` that trains a flow map."""

    objective: MapObjective
    target: Callable[[Map], Target]


class FlowMapModule(ConsistencyModule):
    """What training and distillation of flow maps share: the law of both levels, and augmentation."""

    learns = FlowMap
    augments = True

    @property
    def map_objective(self) -> MapObjective:
        """The objective, by its own type."""
        return cast(MapObjective, self.objective)

    def setup(self, stage: str) -> None:
        """Refuse an augmentation that does not fit the data or the network, before anything is written."""
        if stage == "fit":
            shape = data_of(self.trainer).shape
            fit_augmentation(self.map_objective.augmentation, self.model.net, shape)
        super().setup(stage)

    def check_flow(self, flow: object) -> None:
        """Refuse a flow, or a map, that does not suit the objective."""
        self.map_objective.check(cast(FlowMap, self.model), flow)

    def joint_mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability of each pair of cells of (t, s) at step k -> [E-1, E-1]."""
        return self.map_objective.joint_mass(edges, k)

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges [E] at step k -> [E-1]."""
        return self.joint_mass(edges, k).sum(1)


class FlowMapTraining(FlowMapModule, ConsistencyTraining):
    """MeanFlow (2505.13447) and its kin: `ConsistencyTraining` of a map with two times.

    Args:
        flow: where x_t goes, given the data.
        start: () -> a teacher or a consistency function, with whose weights training begins; None for none.
        **run: objective and target, and arguments of `Module`: model, optimizer, rate, samplers and seed.
    """

    def __init__(
        self,
        flow: TrainingFlow,
        start: Callable[[], DenoiserLike] | None = None,
        **run: Unpack[FlowMapArguments],
    ) -> None:
        ConsistencyTraining.__init__(self, flow, start, **cast(ConsistencyArguments, run))
        self.check_flow(flow)


class FlowMapDistillation(FlowMapModule, ConsistencyDistillation):
    """Distillation of a denoiser into a flow map (2506.14603).

    Args:
        teacher: () -> D(x, σ).
        flow: D -> where x_t goes next.
        initialise: start from the teacher's weights, where it has any.
        **run: as of `FlowMapTraining`.
    """

    def __init__(
        self,
        teacher: Callable[[], DenoiserLike],
        flow: Callable[[DenoiserLike], Flow],
        initialise: bool = True,
        **run: Unpack[FlowMapArguments],
    ) -> None:
        ConsistencyDistillation.__init__(self, teacher, flow, initialise, **cast(ConsistencyArguments, run))

    def follow(self, flow: Flow) -> None:
        """Keep it, if it suits the objective."""
        self.check_flow(flow)
        super().follow(flow)
