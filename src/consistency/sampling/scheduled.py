"""Solvers of diffusers, in σ: those of the papers' tables that are not written here anew.

diffusers knows variance-preserving states x/√(1 + σ²) alone. All solvers here are the same in either, for
they work in ln σ on the network's estimates. A list of S levels makes S network calls; the last ends at D.
"""

import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ClassVar

import torch
from torch import Tensor

from consistency.errors import ArgumentError, UserError
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike
from consistency.sampling.ode import Noise, Solver
from consistency.tensor import level

MOST_LEVELS = 1000  # of a scheduler


@dataclass(frozen=True)
class Scheduled(Solver):
    """A solver through diffusers' scheduler.

    Raises:
        UserError: diffusers is not installed.
    """

    scheduler: ClassVar[str]  # name of its class there

    def _check(self) -> None:
        super()._check()
        if len(self.sigmas) > MOST_LEVELS:
            raise ArgumentError(f"sigmas has {len(self.sigmas)} levels, and {MOST_LEVELS} are the most")
        if find_spec("diffusers") is None:
            raise UserError(f"{type(self).__name__} needs diffusers: pip install -e '.[export]'")

    @property
    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What the scheduler is made with, besides its levels."""

    def _scheduler(self) -> Any:
        kind = getattr(import_module("diffusers"), self.scheduler)
        with without_scheduler_warnings():
            made = kind(prediction_type="sample", **self.settings)
            made.set_timesteps(len(self.sigmas))
        made.sigmas = torch.tensor([*self.sigmas, 0.0], dtype=torch.float64)
        made.timesteps = torch.arange(len(self.sigmas))
        made.set_begin_index(0)
        return made

    def _solve(self, D: DenoiserLike, x: Tensor, c: Condition, noise: Noise) -> Tensor:
        scheduler = self._scheduler()
        x = x / (1 + self.sigmas[0] ** 2) ** 0.5
        for sigma, t in zip(self.sigmas[:-1], scheduler.timesteps, strict=False):
            y = D(x * (1 + sigma**2) ** 0.5, level(sigma, x), c)
            with without_scheduler_warnings():
                x = scheduler.step(y, t, x, return_dict=False)[0]
        last = self.sigmas[-1]
        return D(x * (1 + last**2) ** 0.5, level(last, x), c)  # not by the scheduler: ln 0 is not finite


@dataclass(frozen=True)
class DPMSolver2(Scheduled):
    """DPM-Solver-2 (2206.00927, algorithm 1): single steps of second order, each over two intervals.

    A step begins at every other level from the first on, and evaluates the level between. What is left over
    at the end is of first order.
    """

    name = "dpm2"
    scheduler = "DPMSolverSinglestepScheduler"

    @property
    def title(self) -> str:
        """Such as `dpm2_10`."""
        return f"{self.name}_{self.nfe}"

    @property
    def settings(self) -> dict[str, Any]:
        """Of second order, on the estimated noise."""
        last = {"lower_order_final": True, "final_sigmas_type": "sigma_min"}
        return {"solver_order": 2, "algorithm_type": "dpmsolver", **last}


@dataclass(frozen=True)
class Multistep(Scheduled):
    """A multistep method of some order.

    Args:
        order: of the method, 1 to 3.
    """

    order: int = 3

    shown = ("order",)

    def _check(self) -> None:
        super()._check()
        check_order(self.order)

    @property
    def settings(self) -> dict[str, Any]:
        """Its order."""
        return {"solver_order": self.order}


@dataclass(frozen=True)
class DEIS(Multistep):
    """DEIS in ln ρ (2204.13902), on the estimated noise."""

    name = "deis"
    scheduler = "DEISMultistepScheduler"


@dataclass(frozen=True)
class UniPC(Multistep):
    """UniPC (2302.04867, B2): a predictor with a corrector that costs no network call."""

    name = "unipc"
    scheduler = "UniPCMultistepScheduler"


@contextmanager
def without_scheduler_warnings() -> Iterator[None]:
    """Without its warnings: on `dpmsolver`, which the papers' tables are of, and on how it uses NumPy."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def check_order(order: int) -> None:
    """Refuse an order that no scheduler has.

    Raises:
        ArgumentError: it is not 1, 2 or 3.
    """
    if type(order) is not int or not 1 <= order <= 3:
        raise ArgumentError(f"order={order} must be 1, 2 or 3")
