"""What says how good a consistency function f is, where the value of its loss does not.

An exact f takes every point of a trajectory of the probability flow to where the trajectory is at σ_min
(2303.01469, definition 1). So f is held, on trajectories that begin at noised data, against itself, against
their ends, and against the data. Shapes: L levels, B trajectories, x_σ [L, B, ...], σ [L] in float64.
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

POOL = 2048  # training samples whose posterior mean is followed where nothing better is known
KEPT = 2**28  # bytes of all trajectories, and of the pool: what 256 images of 88x88 take at 12 levels
STEPS = 200  # of Runge-Kutta over all levels, where the density is known
LOOKS = {  # of the curves: color, and what lies so far apart
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
    """Training samples as the network sees them: trajectories begin at the first, all stand for the data."""

    x: Tensor  # [M, ...]
    c: Condition = NONE  # of each


class TrajectorySource(NamedTuple):
    """Whose trajectories they are: exact, teacher, data, or diagonal, those of a flow map's own denoiser."""

    name: str
    solve: Callable[[Tensor, float, float, Condition], Tensor]  # (x at t, t, r, c) -> x at r


class Trajectories(NamedTuple):
    """Points of the probability flow, and the data and the noise that it was begun with."""

    source: str
    sigma: Tensor  # [L], rising
    x_sigma: Tensor  # [L, B, ...], float32, on the CPU
    x: Tensor  # [B, ...]
    z: Tensor  # [B, ...]
    c: Condition  # of each


@dataclass(frozen=True)
class Gaps:
    """Root mean squares over samples and coordinates, by σ; plain data.

    Args:
        source: whose trajectories they were measured on.
        sigma: the L levels, rising.
        boundary: f(x_ε, ε) - x_ε at the lowest, ε.
        curves: `trajectory` and `reconstruction` at each level; `self` at each but the lowest, between it and
            the level below.
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
    """Where a consistency function is looked at. The same numbers give the same points.

    Args:
        sigma_min: the lowest level, ε.
        sigma_max: the highest level, where trajectories begin.
        count: trajectories, B; fewer of large images, see `fitting`.
        levels: L, evenly spaced in ln σ.
        substeps: steps of Heun's method from a level to the next, where the exact flow is not known.
        seed: of samples and noise.
        batch: samples a forward.
    """

    sigma_min: float
    sigma_max: float
    count: int = 256
    levels: int = 12
    substeps: int = 2
    seed: int = 0
    batch: int = 256

    def checked(self, section: str) -> "Probe":
        """Itself, unless a number is too small.

        Raises:
            UserError: names the key, in this section of the config.
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
        """How often the network is called with a sample by `measure`."""
        return 2 * self.levels * self.count

    def fitting(self, shape: Sequence[int]) -> "Probe":
        """Itself, or with as many trajectories as `KEPT` bytes hold of samples of this shape, 1 or more."""
        most = max(1, KEPT // (4 * self.levels * math.prod(shape)))
        return self if self.count <= most else replace(self, count=most)

    def pool(self, total: int, shape: Sequence[int] = ()) -> Tensor:
        """Numbers of the training samples to take, of so many of this shape, in no order."""
        most = max(self.fitting(shape).count, min(POOL, KEPT // (4 * math.prod(shape))))
        return torch.randperm(total, generator=self._generator())[:most]

    def source(
        self, density: Mixture | None, teacher: DenoiserLike | None, some: ProbeData
    ) -> TrajectorySource:
        """The flow of the density where it is known, else the teacher's, else that of some of the data."""
        if density is not None:
            return exact(density, -(-STEPS // (self.levels - 1)))
        if teacher is not None:
            return followed("teacher", by_parts(teacher, self.batch), self.substeps)
        return followed("data", posterior(some), self.substeps)

    @torch.no_grad()
    def trajectories(self, source: TrajectorySource, some: ProbeData) -> Trajectories:
        """From x + T z down to σ_min, for `count` samples; of fewer, one after the other and again."""
        count = self.fitting(some.x.shape[1:]).count
        if count < self.count:
            size = f"no more of samples of this size fit into {KEPT // 2**20} MiB"
            notice(f"{count} trajectories in place of {self.count}: {size}")
        row = (torch.arange(count) % len(some.x)).to(some.x.device)
        x, c = some.x[row], some.c.rows(row)
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
        """All gaps of f along trajectories, a batch of them at a time."""
        sums = {name: torch.zeros(self.levels, dtype=torch.float64) for name in LOOKS}
        with in_pieces("signals", 2 * self.levels * len(paths.x)):
            for first in range(0, len(paths.x), self.batch):
                for name, squares in squared(f, paths, slice(first, first + self.batch)).items():
                    sums[name] += squares
        means = {name: (total / paths.x.numel()).sqrt().tolist() for name, total in sums.items()}
        means["self"] = means["self"][1:]
        return Gaps(paths.source, paths.sigma.tolist(), means["trajectory"][0], means)

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)


def exact(density: Mixture, steps: int) -> TrajectorySource:
    """The flow of a known density, by so many steps from a level to the next."""

    def solve(x: Tensor, t: float, r: float, c: Condition) -> Tensor:
        return density.solve(x, level(t, x), level(r, x), steps)

    return TrajectorySource("exact", solve)


def followed(name: str, D: DenoiserLike, substeps: int) -> TrajectorySource:
    """The flow of a denoiser, by Heun's method, steps evenly spaced in ln σ."""

    def solve(x: Tensor, t: float, r: float, c: Condition) -> Tensor:
        for a, b in pairwise(geometric(t, r, substeps + 1).tolist()):
            x = solvers.heun(D, x, level(a, x), level(b, x), c)
            tick()
        return x

    return TrajectorySource(name, solve)


def posterior(some: ProbeData) -> DenoiserLike:
    """E[x_0 | x_σ] if these samples were all of the data; of those of the same class, where there are any."""
    flow = ReferenceFlow(some.x, some.c.label, own=False)
    return lambda x, sigma, c=NONE: flow.mean(x, sigma, x, c)


def squared(f: DenoiserLike, paths: Trajectories, rows: slice) -> dict[str, Tensor]:
    """Squared differences at each level [L], summed over some of the trajectories; no `self` at the first."""
    x, z, c = paths.x[rows], paths.z[rows], paths.c.rows(rows)
    path, below = paths.x_sigma[:, rows], None
    found: dict[str, list[Tensor]] = {name: [] for name in LOOKS}
    for sigma, at in zip(paths.sigma.tolist(), path, strict=True):
        s = level(sigma, x)
        y = f(at.to(x.device), s, c)
        back = f(perturb(x, z, s).float(), s, c)
        found["self"].append(squared_distance(y, y if below is None else below))
        found["trajectory"].append(squared_distance(y, path[0].to(x.device)))
        found["reconstruction"].append(squared_distance(back, x))
        below = y
    return {name: torch.stack(squares).cpu() for name, squares in found.items()}


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """Sum of the squared differences over samples and coordinates."""
    return (a.double() - b.double()).square().sum()


def by_parts(f: DenoiserLike, batch: int) -> DenoiserLike:
    """f for so many samples at a time, in float32."""

    parts = Portions(f, batch, lambda done: None)
    return lambda x, sigma, c=NONE: parts(x.float(), sigma, c).to(x.dtype)


def figure(gaps: Gaps) -> "Figure":
    """The three curves against σ, and the boundary error in the title."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(7, 4.5), layout="constrained")
    axes = drawn.subplots()
    for name, curve in gaps.curves.items():
        color, label = LOOKS[name]
        sigma, label = gaps.sigma[-len(curve) :], label.format(ENDS[gaps.source])
        axes.plot(sigma, curve, "o-", color=color, markersize=3, label=label)
    title = f"boundary error at σ = {gaps.sigma[0]:.4g}: {gaps.boundary:.2g}"
    axes.set(xscale="log", xlabel="σ", ylabel="root mean square difference", title=title)
    axes.set_ylim(*heights(gaps))  # before the scale, which of nothing but zeros would find none
    axes.set_yscale("log", nonpositive="mask")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize="small")
    return drawn


def heights(gaps: Gaps) -> tuple[float, float]:
    """Room for all that has a logarithm; for a decade where nothing has."""
    known = [v for curve in gaps.curves.values() for v in curve if 0 < v < math.inf] or [0.1, 1.0]
    return min(known) / 1.5, max(known) * 1.5
