"""What a network means: a denoiser D(x, σ, c), a consistency function f(x, σ, c), a flow map f(x, t, s, c).

All three are estimates of clean data, made of a network F and a preconditioner. They promise different
things: D is the posterior mean, f the end of the trajectory through x, and the flow map any later point of
it. The role is written into every file, and whoever needs a denoiser calls `as_denoiser`.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, Self, final

import torch
from torch import Tensor, nn

from consistency.errors import UserError, positive
from consistency.model.coefficients import Coefficients, Precond
from consistency.model.condition import NONE, Condition, check_takes
from consistency.model.second import check_times, ratio, second_time
from consistency.tensor import expand, level

Note = Callable[["Map", Tensor], None]
_notes: list[Note] = []  # of `observed`


class DenoiserLike(Protocol):
    """Any function (x [B, ...], σ [B], c) -> [B, ...]: a network, a teacher, a closed form."""

    def __call__(self, x: Tensor, sigma: Tensor, c: Condition = NONE) -> Tensor:
        """Clean data estimated from x at noise level σ."""
        ...


class Map(nn.Module):
    """c_skip x + c_out F(c_in x, c_noise, c): what the three roles share.

    Args:
        net: F, called as net(x [B, ...], c_noise [B], c) -> [B, ...]; `takes` names the fields of c it reads.
        precond: what its input and output mean.

    Attributes:
        codec_sha256: hash of the codec that the network was trained with, if the file of its weights has one.

    Raises:
        UserError: the network takes another number of times.
    """

    role: ClassVar[str]  # as files have it
    times: ClassVar[int] = 1  # that its network takes
    codec_sha256: str | None = None

    def __init__(self, net: nn.Module, precond: Precond) -> None:
        super().__init__()
        check_times(net, self.times, self.role)
        self.net, self.precond = net, precond
        self._known: dict[tuple[float, torch.dtype, torch.device], Coefficients] = {}

    def with_parts(self, net: nn.Module, precond: Precond) -> Self:
        """A map of the same role, made of these."""
        return type(self)(net, precond)

    def estimate(self, x: Tensor, sigma: Tensor | float, c: Condition, *second: Tensor) -> Tensor:
        """Clean data, in the dtype of x, from x [B, ...] and σ [B], or one σ for all.

        Raises:
            UserError: the network does not take what c gives.
        """
        check_takes(self.net, c)
        for note in _notes:
            note(self, x)
        skip, out, inp, noise = self._each(x, sigma) if isinstance(sigma, Tensor) else self._all(x, sigma)
        F = self.net(inp * x, noise, c, *second)
        return skip * x + out * F.to(x.dtype)

    def _each(self, x: Tensor, sigma: Tensor) -> Coefficients:
        k = self.precond(sigma)
        noise = k.noise.to(x.device, torch.promote_types(x.dtype, torch.float32))  # bf16 would merge levels
        return Coefficients(expand(k.skip, x), expand(k.out, x), expand(k.inp, x), noise)

    def _all(self, x: Tensor, sigma: float) -> Coefficients:
        """The same for one σ: kept, for evaluating them takes about as long as a small network."""
        key = (sigma, x.dtype, x.device)
        if key not in self._known:
            with torch.inference_mode(False):  # what is kept must serve everywhere
                k = self._each(x.new_empty(1), torch.tensor([sigma], dtype=torch.float64))
                self._known[key] = Coefficients(*(value.squeeze() for value in k))
        k = self._known[key]
        return k._replace(noise=k.noise.expand(x.shape[0]))


@final
class Denoiser(Map):
    """D(x, σ, c), the posterior mean of clean data: a teacher."""

    role = "denoiser"

    def forward(self, x: Tensor, sigma: Tensor | float, c: Condition = NONE) -> Tensor:
        """The mean [B, ...] of the data that x [B, ...] at noise level σ may have been."""
        return self.estimate(x, sigma, c)


@final
class Consistency(Map):
    """f(x, σ, c), the end of the trajectory through x at noise level σ (2303.01469)."""

    role = "consistency function"

    def forward(self, x: Tensor, sigma: Tensor | float, c: Condition = NONE) -> Tensor:
        """Clean data [B, ...] from x [B, ...] at noise level σ."""
        return self.estimate(x, sigma, c)


@final
class FlowMap(Map):
    """f(x, t, s, c), with which the trajectory through x at t passes X = (s/t) x + (1 - s/t) f at s.

    At s = t it is a denoiser, at s = 0 a consistency function (2406.07507, 2506.14603, in σ). It leads
    from t to s <= t alone: from data back to noise leads only the flow of its denoiser, solved upwards.

    Args:
        net: F, called as net(x, c_noise [B], c, h [B]) with h of `consistency.model.second`; `times` is 2.
        precond: at t.
        diagonal: whether s = t has been trained, without which there is no denoiser in it.
        sigma_data: standard deviation of the data, for h.
    """

    role = "flow map"
    times = 2

    def __init__(self, net: nn.Module, precond: Precond, diagonal: bool, sigma_data: float = 0.5) -> None:
        super().__init__(net, precond)
        positive("sigma", data=sigma_data)
        self.has_diagonal, self.sigma_data = diagonal, sigma_data

    def with_parts(self, net: nn.Module, precond: Precond) -> Self:
        """A flow map made of these, with the same diagonal and σ_data."""
        return type(self)(net, precond, self.has_diagonal, self.sigma_data)

    def forward(self, x: Tensor, t: Tensor | float, s: Tensor | float, c: Condition = NONE) -> Tensor:
        """f [B, ...] for x [B, ...] at noise level t > 0 and 0 <= s <= t, each [B] or one for all.

        Differentiable in x, t and s, forwards and backwards.
        """
        return self.estimate(x, t, c, self.second(x, t, s))

    def second(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """What the network is given of s: h [B], where x [B, ...] is, at least float32."""
        h = second_time(t, s, self.sigma_data)
        return h.to(x.device, torch.promote_types(x.dtype, torch.float32)).expand(x.shape[0])

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float, c: Condition = NONE) -> Tensor:
        """The point [B, ...] at noise level s of the trajectory through x at t: x itself at s = t."""
        return torch.lerp(self(x, t, s, c), x, expand(ratio(t, s), x))

    @property
    def diagonal(self) -> Denoiser:
        """f(x, t, t): shares the weights.

        Raises:
            UserError: it was not trained.
        """
        if not self.has_diagonal:
            raise UserError(
                "this flow map was trained without s = t, and has no denoiser: train a share of s = t, "
                "or use a run of edm, ddpm or flow"
            )
        return Denoiser(Slice(self.net, 1.0), self.precond)

    @property
    def at_zero(self) -> Consistency:
        """f(x, t, 0): shares the weights."""
        return Consistency(Slice(self.net, 0.0), self.precond)


class Slice(nn.Module):
    """A network of two times where the second is the same for all: one of a single time.

    Args:
        net: of two times.
        h: 1 for s = t, 0 for s = 0.
    """

    times = 1

    def __init__(self, net: nn.Module, h: float) -> None:
        super().__init__()
        self.net, self.h = net, h
        self.takes: tuple[str, ...] = getattr(net, "takes", ())

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE) -> Tensor:
        """F(x [B, ...], c_noise [B], c), like x."""
        return self.net(x, noise, c, torch.full_like(noise, self.h))


ROLES = {role.role: role for role in (Denoiser, Consistency, FlowMap)}


def as_denoiser(f: Any, what: str) -> DenoiserLike:
    """f, if it is a denoiser or has one; anything but the three roles is taken for a closed form.

    Args:
        f: of any role.
        what: it is, for the message: `teacher.path=FILE`.

    Raises:
        UserError: a consistency function, whose x - f(x, σ) is no direction to follow; a flow map whose
            diagonal was not trained.
    """
    if isinstance(f, Consistency):
        raise UserError(
            f"{what} is a consistency function, and a denoiser is needed here: use a run of edm, ddpm or "
            "flow; to begin a training with these weights, set start=teacher and a method without a teacher"
        )
    if not isinstance(f, FlowMap):
        return f
    try:
        return f.diagonal
    except UserError as error:
        raise UserError(f"{what}: {error}") from error


def one_time(f: Any) -> Any:
    """f as a function of one level (x, σ, c): of a flow map, its consistency function at s = 0."""
    return f.at_zero if isinstance(f, FlowMap) else f


def denoise_at(f: DenoiserLike, x: Tensor, sigma: float, c: Condition) -> Tensor:
    """f(x, σ, c) at one σ for all samples."""
    return f(x, sigma, c) if isinstance(f, Denoiser | Consistency) else f(x, level(sigma, x), c)


def suited_map(f: Any, role: type[Map], what: str) -> Any:
    """f, if it is of a role or a function; the slice of a flow map that is of that role.

    Args:
        f: anything that is called as a map.
        role: that is needed.
        what: needs it, for the message.

    Raises:
        UserError: a map of another role.
    """
    if not isinstance(f, Map) or isinstance(f, role):
        return f
    if isinstance(f, FlowMap):
        return f.at_zero if role is Consistency else f.diagonal
    group = {Denoiser: "teacher", Consistency: "consistency", FlowMap: "flow_map"}
    raise UserError(
        f"{what} samples from a {role.role}, and this model is a {f.role}: use samplers={group[type(f)]}"
    )


@contextmanager
def observed(note: Note) -> Iterator[None]:
    """note(map, x) at every call of any map, before its network."""
    _notes.append(note)
    try:
        yield
    finally:
        _notes.remove(note)
