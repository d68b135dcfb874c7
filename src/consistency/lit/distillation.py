"""Consistency distillation: a one-step generator that is trained on trajectories of a frozen teacher."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from consistency.errors import UserError, check_call
from consistency.lit.consistency import ConsistencyArguments, ConsistencyModule, check_teacher_codec
from consistency.lit.data.module import data_of
from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike, Map, as_denoiser
from consistency.objectives.flow import Flow
from consistency.schedule.draws import Draws
from consistency.tensor import Terms


class Distillation(ConsistencyModule):
    """A student that starts from its teacher's weights; subclasses define `follow` and `terms`.

    The teacher is loaded when training begins, and only then: a checkpoint of the student is evaluated
    without it. It is no submodule, so it is neither trained, averaged, saved nor synchronised.

    Args:
        teacher: () -> D(x, σ), the teacher.
        flow: D -> the flow that takes x_t to the lower noise level of a pair.
        initialise: copy the teacher's weights to the student, if the teacher is a network.
        **run: arguments of `ConsistencyModule`: objective, target and those of `Module`.
    """

    def __init__(
        self,
        teacher: Callable[[], DenoiserLike],
        flow: Callable[[DenoiserLike], Flow],
        initialise: bool = True,
        **run: Unpack[ConsistencyArguments],
    ) -> None:
        super().__init__(**run)
        if not callable(flow):
            raise UserError("flow: distillation follows its teacher: set flow=teacher, or use another method")
        check_call("teacher", teacher)
        check_call("flow", flow, identity)
        flow(identity)  # refuses wrong arguments of the flow now, before a teacher is trained for hours
        self.teacher, self.make_flow, self.initialise = teacher, flow, initialise

    @abstractmethod
    def follow(self, flow: Flow) -> None:
        """Store the flow, or what training needs of it, before the first step."""

    def setup(self, stage: str) -> None:
        """Load the teacher and copy its weights; a checkpoint to resume from is read after this."""
        if stage != "fit":
            return
        teacher = self.teacher()
        D = as_denoiser(teacher, "teacher.path")
        check_teacher_codec(teacher, data_of(self.trainer).codec)
        if isinstance(D, Map):
            check_teacher_range(D, self.objective.sigma_min)
            D.requires_grad_(False).eval()
        if self.initialise:
            self.start_from(D)
        self.follow(self.make_flow(on_device(D, self.trainer.strategy.root_device)))


class ConsistencyDistillation(Distillation):
    """CD (2303.01469, algorithm 2): `ConsistencyTraining` with the velocity of a teacher."""

    def follow(self, flow: Flow) -> None:
        """Store the flow."""
        self.flow = flow

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss [B] and t [B] of each sample of x [B, ...] at step k."""
        return self.objective(self.model, self.target, self.flow, x, c, k, draws)


def identity(x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
    """D(x, σ) = x: stands in for the teacher, before that is loaded, to check the arguments of a flow."""
    return x


def on_device(D: Any, device: torch.device) -> Any:
    """The teacher on the training device. A closed form follows the device of x by itself."""
    return D.to(device) if isinstance(D, torch.nn.Module) else D


def check_teacher_range(teacher: Map, sigma_min: float) -> None:
    """Refuse a σ_min below the lowest noise level that the teacher was trained on.

    Raises:
        UserError: it is lower, by more than a relative 1e-6.
    """
    lowest = teacher.precond.lowest
    if sigma_min < lowest * (1 - 1e-6):
        raise UserError(
            f"sigma.min={sigma_min} lies below {lowest:.7g}, the least noise that this teacher has seen: "
            f"set sigma.min={lowest:.7g}"
        )
