"""Whose velocity moves points below a flow map's diagonal? The flow's, or that of the map itself."""

from dataclasses import dataclass
from typing import Protocol

from consistency.errors import within
from consistency.model import solvers
from consistency.model.maps import FlowMap
from consistency.model.solvers import Solver
from consistency.objectives.flow import Flow, TeacherFlow


class Tangent(Protocol):
    """(f, flow) -> the flow that moves points."""

    def of(self, f: FlowMap, flow: Flow) -> Flow:
        """The flow of one step.

        Args:
            f: the map, as it supplies targets.
            flow: of the training: the data's, a reference's, a teacher's.
        """
        ...


@dataclass(frozen=True)
class FlowTangent:
    """The flow's: MeanFlow (2505.13447), distillation."""

    def of(self, f: FlowMap, flow: Flow) -> Flow:
        """The flow itself."""
        return flow


@dataclass(frozen=True)
class SelfTangent:
    """That of f(x, t, t), of which it is a frozen copy: improved MeanFlow (2512.02012), LSD (2505.18825).

    Args:
        solver: of one step from t to r.
        substeps: steps between t and r.
    """

    solver: Solver = solvers.heun
    substeps: int = 1

    def __post_init__(self) -> None:
        within("tangent", 1, 1000, substeps=self.substeps)

    def of(self, f: FlowMap, flow: Flow) -> Flow:
        """The flow of the network as it is.

        Raises:
            UserError: the diagonal is not trained.
        """
        return TeacherFlow(f.diagonal, self.solver, self.substeps)
