"""What consistency training and distillation share: a consistency function, its objective and its target."""

from collections.abc import Callable
from typing import Any, Unpack

import torch
from torch import Tensor

from consistency.codec.codec import Codec
from consistency.codec.identity import codec_digest
from consistency.errors import UserError, check_call
from consistency.lit.module import Module, RunArguments, freeze_augmentation_labels
from consistency.model.coefficients import Precond
from consistency.model.maps import Consistency, DenoiserLike, Map
from consistency.objectives.discrete import Objective
from consistency.objectives.target import Target
from consistency.teachers.weights import load_into
from consistency.truth.oracle import Mixture

PROBES = torch.tensor([1.0, 10.0, 50.0], dtype=torch.float64)  # σ at which preconditioners are compared


class ConsistencyArguments(RunArguments):
    """The arguments of `ConsistencyModule`, which training and distillation hand on to it."""

    objective: Objective
    target: Callable[[Map], Target]


class ConsistencyModule(Module):
    """Trains a consistency function f by an objective with a target. Subclasses define `terms`.

    Args:
        objective: what is minimised.
        target: f -> the function whose output is the target, such as an average of f's weights.
        **run: arguments of `Module`: model, optimizer, rate, samplers and seed.
    """

    learns = Consistency

    def __init__(
        self, objective: Objective, target: Callable[[Map], Target], **run: Unpack[RunArguments]
    ) -> None:
        super().__init__(**run)
        freeze_augmentation_labels(self.model.net)
        check_call("target", target, self.model)
        self.objective, self.target = objective, target(self.model)

    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """f(x, σ) [B, ...] of the density: the end of the trajectory at the objective's lowest σ."""
        return density.consistency(x, sigma, self.objective.sigma_min)

    def start_from(self, D: DenoiserLike) -> None:
        """Copy the weights of a teacher to the model and its target; a closed form has none to copy."""
        if isinstance(D, Map):
            copy_weights(self.model, D)
            self.target.restart(self.model)

    def optimizer_step(self, *step: Any, **more: Any) -> None:
        """Update the model, then the target, in one hook: no checkpoint is written between the two."""
        k = self.global_step
        super().optimizer_step(*step, **more)
        self.target.update(self.model, k)

    def progress(self, k: int) -> dict[str, float]:
        """Quantities of the objective (N, the stage or r) and of the target (μ) at step k, by name."""
        return {**self.objective.progress(k), **self.target.progress(k)}

    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that t falls between neighbouring edges."""
        return self.objective.mass(edges, k)


def check_teacher_codec(teacher: DenoiserLike, codec: Codec) -> None:
    """Refuse a teacher that was trained with another codec.

    Args:
        teacher: its `codec_sha256`, if its file had one, is compared.
        codec: of the data of this run.

    Raises:
        UserError: the hashes differ.
    """
    if getattr(teacher, "codec_sha256", None) not in (None, codec_digest(codec)):
        raise UserError(
            f"the codec of the data, {codec}, is not the one that the teacher was trained with: set "
            "data.codec, data.offset and data.scale as in its run, or name another with teacher.path"
        )


def copy_weights(student: Map, teacher: Map) -> None:
    """Copy the weights of the teacher's network to the student's.

    Raises:
        UserError: the networks differ, or their preconditioners scale inputs and outputs differently.
    """
    check_same_scaling(student.precond, teacher.precond)
    load_into(student.net, teacher.net.state_dict(), None)


def check_same_scaling(student: Precond, teacher: Precond) -> None:
    """Refuse to copy weights between networks whose inputs and outputs are scaled differently.

    c_in and c_noise must agree at `PROBES`, c_out to 10 %; c_skip may differ for the boundary condition.

    Raises:
        UserError: the preconditioners differ.
    """
    ours, theirs = student(PROBES), teacher(PROBES)
    same = torch.allclose(ours.inp, theirs.inp) and torch.allclose(ours.noise, theirs.noise)
    if not (same and torch.allclose(ours.out, theirs.out, rtol=0.1)):
        raise UserError(
            "precond: inputs or outputs mean something else to the student's network than to the teacher's: "
            "choose the teacher's kind (edm or boundary for edm, epsilon_jump for ddpm, velocity_jump for "
            "flow, trigflow for trigflow), or start afresh (distillation with module.initialise=false, "
            "training with start=scratch)"
        )
