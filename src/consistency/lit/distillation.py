"""Consistency distillation: a one-step generator learned from a frozen teacher."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from consistency.errors import UserError, check_call
from consistency.lit.consistency import ConsistencyArguments, ConsistencyModule, check_codec
from consistency.lit.data.module import data_of
from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike, Map, as_denoiser
from consistency.objectives.flow import Flow
from consistency.schedule.draws import Draws
from consistency.tensor import Terms


class Distillation(ConsistencyModule):
    """A student that starts from its teacher's weights; two holes left, `follow` and `terms`.

    The teacher is called for when training begins, and only then: a checkpoint of the student is evaluated
    without it. It is no submodule: neither trained, averaged, saved nor synchronised.

    Args:
        teacher: () -> D(x, σ).
        flow: D -> where x_t goes next.
        initialise: start from the teacher's weights, where it has any.
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
        check_call("flow", flow, nobody)
        flow(nobody)  # its bounds are seen now, and not once a teacher has been trained
        self.teacher, self.make_flow, self.initialise = teacher, flow, initialise

    @abstractmethod
    def follow(self, flow: Flow) -> None:
        """Take what is needed of the teacher's flow."""

    def setup(self, stage: str) -> None:
        """Call the teacher; a checkpoint to go on from is read after this."""
        if stage != "fit":
            return
        taught = self.teacher()
        D = as_denoiser(taught, "teacher.path")
        check_codec(taught, data_of(self.trainer).codec)
        if isinstance(D, Map):
            check_lowest(D, self.objective.sigma_min)
            D.requires_grad_(False).eval()
        if self.initialise:
            self.start_from(D)
        self.follow(self.make_flow(on_device(D, self.trainer.strategy.root_device)))


class ConsistencyDistillation(Distillation):
    """CD (2303.01469, algorithm 2): `ConsistencyTraining` with the velocity of a teacher."""

    def follow(self, flow: Flow) -> None:
        """Keep it, a plain attribute."""
        self.flow = flow

    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss and t of each sample."""
        return self.objective(self.model, self.target, self.flow, x, c, k, draws)


def nobody(x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
    """In place of a teacher that is not there yet."""
    return x


def on_device(D: Any, device: torch.device) -> Any:
    """The teacher, where training takes place; a closed form goes wherever x is by itself."""
    return D.to(device) if isinstance(D, torch.nn.Module) else D


def check_lowest(teacher: Map, sigma_min: float) -> None:
    """Refuse noise below what the teacher has seen."""
    lowest = teacher.precond.lowest
    if sigma_min < lowest * (1 - 1e-6):
        raise UserError(
            f"sigma.min={sigma_min} lies below {lowest:.7g}, the least noise that this teacher has seen: "
            f"set sigma.min={lowest:.7g}"
        )
