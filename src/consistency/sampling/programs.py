"""Samplers as modules for exports: a network and a few multiplications, with all noise as an input.

The functions of σ are evaluated once, in float64, and kept as float32 numbers.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition, given_label
from consistency.model.maps import FlowMap, Map
from consistency.model.second import second_time

if TYPE_CHECKING:
    from consistency.sampling.samplers import Sampler

NEGLIGIBLE = 1e-11  # coefficients below are rounding errors of float64


class Program(nn.Module):
    """A sampler with the weights of a network.

    Args:
        f: whose network it calls.
        levels: σ of each call.
        noises: unit noises that a sample takes, K.
        clip: clamp every estimate of clean data to [-1, 1].
    """

    skip: Tensor
    out: Tensor
    inp: Tensor
    noise: Tensor

    def __init__(self, f: Map, levels: Tensor, noises: int, clip: bool) -> None:
        super().__init__()
        self.net, self.noises, self.clip = f.net, noises, clip
        for name, values in f.precond(levels)._asdict().items():
            self.register_buffer(name, values.float())

    def estimate(self, k: int, x: Tensor, c: Condition, *second: Tensor) -> Tensor:
        """Clean data [B, ...] by call k."""
        noise = self.noise[k].expand(x.shape[0])  # len(x) would be a constant in an export
        F = self.net(self.inp[k] * x, noise, c, *(s.expand(x.shape[0]) for s in second))
        x = self.skip[k] * x + self.out[k] * F
        return x.clamp(-1.0, 1.0) if self.clip else x


class Renoised(Program):
    """Multistep consistency sampling (2303.01469, algorithm 1), of which one step is the first call.

    Args:
        f: a consistency function.
        visits: σ of each call, and the noise added before it, see `consistency.sampling.levels.visits`.
        clip: see `Program`.
    """

    added: Tensor

    def __init__(self, f: Map, visits: Sequence[tuple[float, float]], clip: bool = False) -> None:
        levels, added = torch.tensor(visits, dtype=torch.float64).T
        super().__init__(f, levels, len(visits), clip)
        self.register_buffer("added", added.float())

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, ...] from unit noise z [B, K, ...], of which call k adds z[:, k]; label [B] or None."""
        x, c = torch.zeros_like(z[:, 0]), given_label(label)
        for k in range(self.noises):
            x = self.estimate(k, x + self.added[k] * z[:, k], c)
        return x


class Row(NamedTuple):
    """A state as a combination of what is known before it, without the zeros.

    Args:
        state: coefficient of the state before.
        noises: coefficients by number of the noise.
        estimates: coefficients by number of the network call.
    """

    state: float
    noises: dict[int, float]
    estimates: dict[int, float]


class Combined(Program):
    """Any sampler whose states are linear in its noise and in the network's estimates: all of ours are.

    Its coefficients are read off the sampler itself, which is run once on unit vectors.

    Args:
        sampler: whose options and levels count.
        f: a map of its role.

    Raises:
        UserError: the sampler calls f at other levels than its `sigmas`.
    """

    seconds: Tensor

    def __init__(self, sampler: "Sampler", f: Map) -> None:
        run = Recorded(sampler)
        super().__init__(f, torch.tensor(run.levels, dtype=torch.float64), run.noises, sampler.clip)
        self.rows = run.rows()
        if bool(run.ends) != isinstance(f, FlowMap):
            raise UserError(f"{sampler.title} makes no program of a {f.role}")
        jumps = zip(run.levels, run.ends, strict=False)  # none of a single time
        h = [second_time(t, s, f.sigma_data).item() for t, s in jumps] if isinstance(f, FlowMap) else []
        self.register_buffer("seconds", torch.tensor(h, dtype=torch.float32))

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images [B, ...] from unit noise z [B, K, ...], first the starting noise; label [B] or None."""
        c = given_label(label)
        x, estimates = torch.zeros_like(z[:, 0]), list[Tensor]()
        for k, row in enumerate(self.rows):
            x = row.state * x if row.state else torch.zeros_like(x)
            for i, share in row.noises.items():
                x = x + share * z[:, i]
            for i, share in row.estimates.items():
                x = x + share * estimates[i]
            if k < len(self.rows) - 1:
                second = [self.seconds[k]] if len(self.seconds) else []
                estimates.append(self.estimate(k, x, c, *second))
        return x


class Recorded:
    """A run of a sampler on unit vectors: noise i and estimate k are each an axis of their own.

    Args:
        sampler: that is run.
    """

    def __init__(self, sampler: "Sampler") -> None:
        self.levels, self.ends, self.states = list[float](), list[float](), list[Tensor]()
        self.noises, self.calls = 1, sampler.nfe
        self.most = 2 * sampler.nfe  # noises: no sampler draws more than once a call
        plain = replace(sampler, clip=False, precond=None)
        self.states.append(plain(self._estimate, self._axis(0), NONE, self)[0])
        if len(self.levels) != self.calls:
            raise UserError(f"{sampler.title} made {len(self.levels)} network calls")

    def _axis(self, i: int) -> Tensor:
        return torch.eye(1, self.most + self.calls, dtype=torch.float64).roll(i, 1)

    def _estimate(self, x: Tensor, sigma: Tensor, *second: Tensor | Condition) -> Tensor:
        self.states.append(x[0])
        self.levels.append(float(sigma))
        self.ends += [float(s) for s in second if isinstance(s, Tensor)]
        return self._axis(self.most + len(self.levels) - 1)

    def normal(self, x: Tensor) -> Tensor:
        """The next noise: `Draws`."""
        self.noises += 1
        return self._axis(self.noises - 1)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """No program takes them."""
        raise UserError("this sampler draws uniform numbers, which no program takes: export another one")

    def rows(self) -> list[Row]:
        """Each state from the one before; the last is the sample.

        The weight of the starting noise in each state tells how much of one state is in the next.
        """
        found, before = list[Row](), torch.zeros_like(self.states[0])
        for x in self.states:
            least = NEGLIGIBLE * x.abs().max()
            share = float(x[0] / before[0]) if before[0] and x[0].abs() > least else 0.0
            rest = x - share * before
            rest[rest.abs() < least] = 0.0
            noises = {i: v for i, v in enumerate(rest[: self.noises].tolist()) if v}
            estimates = {i: v for i, v in enumerate(rest[self.most :].tolist()) if v}
            found.append(Row(share, noises, estimates))
            before = x
        return found


class Decoded(nn.Module):
    """A sampler whose samples are decoded by the codec's own program.

    Args:
        program: of the sampler.
        decoder: encoded samples z -> images in [-1, 1] or points.
    """

    def __init__(self, program: Program, decoder: nn.Module) -> None:
        super().__init__()
        self.program, self.decoder, self.noises = program, decoder, program.noises

    def forward(self, z: Tensor, label: Tensor | None = None) -> Tensor:
        """Images or points from unit noise z [B, K, ...], and label [B] or None."""
        return self.decoder(self.program(z, label))
