"""Gaps: how far a consistency function f is from an exact one, which the value of its loss does not show.

An exact f maps every point of a trajectory of the probability flow to the trajectory's point at σ_min
(2303.01469, definition 1). On trajectories that begin at noised data, f is compared with itself, with the
ends of the trajectories, and with the data.

Shapes: L levels, B trajectories, x_σ [L, B, ...], σ [L] in float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from consistency.errors import at_least, within
from consistency.model import solvers
from consistency.model.condition import NONE, Condition
from consistency.model.maps import DenoiserLike
from consistency.model.portions import Portions
from consistency.objectives.reference import ReferenceFlow
from consistency.process.notices import notice
from consistency.schedule.sigma import Sigma
from consistency.tensor import geometric, level, perturb
from consistency.truth.oracle import Mixture
from consistency.watch import in_pieces, tick

if TYPE_CHECKING:
    from matplotlib.figure import Figure

POOL = 2048  # training samples for the posterior mean, if neither density nor teacher is known
KEPT = 2**28  # largest size of all trajectories, and of the pool, in bytes: 256 images of 88x88 at 12 levels
STEPS = 200  # Runge-Kutta steps over all levels, if the density is known
LOOKS = {  # of the curves: colour, and the two values that are compared
    "self": ("#2f6ca3", "self: f(x_σ', σ') and f(x_σ, σ), neighbouring levels"),
    "trajectory": ("#b03a2e", "trajectory: f(x_σ, σ) and x_ε {}"),
    "reconstruction": ("#888888", "reconstruction: f(x + σz, σ) and x"),
}
ENDS = {
    "exact": "of the exact flow",
    "teacher": "of the teacher's flow",
    "data": "of the training samples' flow",
    "diagonal": "of the map's own flow",
}


class ProbeData(NamedTuple):
    """Training samples in the network's units. Trajectories begin at the first; all of them are the data."""

    x: Tensor  # [M, ...]
    c: Condition = NONE  # of each sample


class TrajectorySource(NamedTuple):
    """Whose trajectories they are: exact, teacher, data, or diagonal, those of a flow map's own denoiser."""

    name: str  # "exact", "teacher" or "data"
    solve: Callable[[Tensor, float, float, Condition], Tensor]  # (x at t, t, r, c) -> x at r


class Trajectories(NamedTuple):
    """Points on trajectories of the probability flow, with the data and the noise at which they begin."""

    source: str  # name of the `TrajectorySource`
    sigma: Tensor  # [L], rising
    x_sigma: Tensor  # [L, B, ...], float32, on the CPU
    x: Tensor  # [B, ...]
    z: Tensor  # [B, ...]
    c: Condition  # of each trajectory


@dataclass(frozen=True)
class Gaps:
    """Root mean square differences over samples and coordinates, by σ, as plain data.

    Args:
        source: name of the source of the trajectories.
        sigma: the L levels, rising.
        boundary: of f(x_ε, ε) - x_ε at the lowest level, ε.
        curves: `trajectory` and `reconstruction` at each level; `self` at each level but the lowest, between
            this level and the one below.
    """

    source: str
    sigma: list[float]
    boundary: float
    curves: dict[str, list[float]]

    def means(self) -> dict[str, float]:
        """`gap/self`, `gap/trajectory`, `gap/reconstruction`, each the mean of its curve; `gap/boundary`."""
        means = {f"gap/{name}": sum(curve) / len(curve) for name, curve in self.curves.items()}
        return means | {"gap/boundary": self.boundary}


@dataclass(frozen=True)
class Probe:
    """The points at which a consistency function is measured; equal probes have the same points.

    Args:
        sigma_min: the lowest level, ε.
        sigma_max: the highest level, where trajectories begin.
        count: number of trajectories, B; fewer for large images, see `fitting`.
        levels: number of levels, L, evenly spaced in ln σ.
        substeps: steps of Heun's method between neighbouring levels if the exact flow is not known.
        seed: of the choice of samples and of the noise.
        batch: samples per network call.
    """

    sigma_min: float
    sigma_max: float
    count: int = 256
    levels: int = 12
    substeps: int = 2
    seed: int = 0
    batch: int = 256

    def checked(self, section: str) -> "Probe":
        """This probe, after checking its numbers.

        Raises:
            UserError: a number is out of bounds; names its key in this section of the config.
        """
        Sigma(self.sigma_min, self.sigma_max)
        at_least(section, batch=self.batch)
        at_least(section, 0, seed=self.seed)
        within(section, 1, 2**20, count=self.count)
        within(section, 1, 1000, substeps=self.substeps)
        within(section, 2, 1000, levels=self.levels)
        return self

    @property
    def calls(self) -> int:
        """Number of samples with which `measure` calls the network, over all calls."""
        return 2 * self.levels * self.count

    def fitting(self, shape: Sequence[int]) -> "Probe":
        """This probe with no more trajectories of samples of this shape than `KEPT` bytes hold, but 1."""
        most = max(1, KEPT // (4 * self.levels * math.prod(shape)))
        return self if self.count <= most else replace(self, count=most)

    def pool(self, total: int, shape: Sequence[int] = ()) -> Tensor:
        """Random indices of the training samples to use [M], of `total` samples of this shape."""
        most = max(self.fitting(shape).count, min(POOL, KEPT // (4 * math.prod(shape))))
        return torch.randperm(total, generator=self._generator())[:most]

    def source(
        self, density: Mixture | None, teacher: DenoiserLike | None, data: ProbeData
    ) -> TrajectorySource:
        """The flow of the density if it is known, else the teacher's, else that of the training samples."""
        if density is not None:
            return exact_source(density, -(-STEPS // (self.levels - 1)))
        if teacher is not None:
            return solver_source("teacher", in_portions(teacher, self.batch), self.substeps)
        return solver_source("data", posterior_mean(data), self.substeps)

    @torch.no_grad()
    def trajectories(self, source: TrajectorySource, data: ProbeData) -> Trajectories:
        """Solve from x + σ_max z down to σ_min for `count` trajectories; samples repeat if too few."""
        count = self.fitting(data.x.shape[1:]).count
        if count < self.count:
            size = f"no more of samples of this size fit into {KEPT // 2**20} MiB"
            notice(f"{count} trajectories in place of {self.count}: {size}")
        row = (torch.arange(count) % len(data.x)).to(data.x.device)
        x, c = data.x[row], data.c.rows(row)
        z = torch.randn(x.shape, generator=self._generator()).to(x.device)
        sigma = geometric(self.sigma_min, self.sigma_max, self.levels)
        now = perturb(x.double(), z.double(), level(self.sigma_max, x))
        at = [now.float().cpu()]
        with in_pieces("trajectories", self.levels - 1):
            for t, r in pairwise(sigma.flip(0).tolist()):
                now = source.solve(now, t, r, c)
                at.append(now.float().cpu())
                tick(1)
        return Trajectories(source.name, sigma, torch.stack(at[::-1]), x, z, c)

    @torch.no_grad()
    def measure(self, f: DenoiserLike, paths: Trajectories) -> Gaps:
        """The gaps of f on trajectories, computed in batches."""
        sums = {name: torch.zeros(self.levels, dtype=torch.float64) for name in LOOKS}
        with in_pieces("signals", 2 * self.levels * len(paths.x)):
            for first in range(0, len(paths.x), self.batch):
                for name, squares in sum_squares(f, paths, slice(first, first + self.batch)).items():
                    sums[name] += squares
        means = {name: (total / paths.x.numel()).sqrt().tolist() for name, total in sums.items()}
        means["self"] = means["self"][1:]
        return Gaps(paths.source, paths.sigma.tolist(), means["trajectory"][0], means)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def exact_source(density: Mixture, steps: int) -> TrajectorySource:
    """The flow of a known density, with this number of steps between neighbouring levels."""

    def solve(x: Tensor, t: float, r: float, c: Condition) -> Tensor:
        return density.solve(x, level(t, x), level(r, x), steps)

    return TrajectorySource("exact", solve)


def solver_source(name: str, D: DenoiserLike, substeps: int) -> TrajectorySource:
    """The flow of a denoiser, by Heun's method with substeps evenly spaced in ln σ."""

    def solve(x: Tensor, t: float, r: float, c: Condition) -> Tensor:
        for a, b in pairwise(geometric(t, r, substeps + 1).tolist()):
            x = solvers.heun(D, x, level(a, x), level(b, x), c)
            tick()
        return x

    return TrajectorySource(name, solve)


def posterior_mean(data: ProbeData) -> DenoiserLike:
    """The denoiser E[x_0 | x_σ] of a data set of these samples, within each class if there are classes."""
    flow = ReferenceFlow(data.x, data.c.label, own=False)
    return lambda x, sigma, c=NONE: flow.mean(x, sigma, x, c)


def sum_squares(f: DenoiserLike, paths: Trajectories, rows: slice) -> dict[str, Tensor]:
    """Squared differences at each level [L], by curve, summed over some trajectories; `self` begins with 0.

    Args:
        f: the consistency function.
        paths: all trajectories.
        rows: the trajectories to use.
    """
    x, z, c = paths.x[rows], paths.z[rows], paths.c.rows(rows)
    path, below = paths.x_sigma[:, rows], None
    found: dict[str, list[Tensor]] = {name: [] for name in LOOKS}
    for sigma, at in zip(paths.sigma.tolist(), path, strict=True):
        s = level(sigma, x)
        y = f(at.to(x.device), s, c)
        back = f(perturb(x, z, s).float(), s, c)
        found["self"].append(squared_difference(y, y if below is None else below))
        found["trajectory"].append(squared_difference(y, path[0].to(x.device)))
        found["reconstruction"].append(squared_difference(back, x))
        below = y
    return {name: torch.stack(squares).cpu() for name, squares in found.items()}


def squared_difference(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the squared differences over samples and coordinates, in float64."""
    return (a.double() - b.double()).square().sum()


def in_portions(f: DenoiserLike, batch: int) -> DenoiserLike:
    """f in calls of at most `batch` samples, in float32."""

    parts = Portions(f, batch, lambda done: None)
    return lambda x, sigma, c=NONE: parts(x.float(), sigma, c).to(x.dtype)


def gap_figure(gaps: Gaps) -> "Figure":
    """A figure of the three curves against σ, with the boundary error in its title."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    for name, curve in gaps.curves.items():
        color, label = LOOKS[name]
        sigma, label = gaps.sigma[-len(curve) :], label.format(ENDS[gaps.source])
        axes.plot(sigma, curve, "o-", color=color, markersize=3, label=label)
    title = f"boundary error at σ = {gaps.sigma[0]:.4g}: {gaps.boundary:.2g}"
    axes.set(xscale="log", xlabel="σ", ylabel="root mean square difference", title=title)
    axes.set_ylim(*axis_limits(gaps))  # before the scale, which fails without positive values
    axes.set_yscale("log", nonpositive="mask")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    return drawn


def axis_limits(gaps: Gaps) -> tuple[float, float]:
    """Limits of the logarithmic y axis around all positive values; one decade if there are none."""
    known = [v for curve in gaps.curves.values() for v in curve if 0 < v < math.inf] or [0.1, 1.0]
    return min(known) / 1.5, max(known) * 1.5
