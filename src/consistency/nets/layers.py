"""The layers that all networks are made of.

`torch.func.jvp` runs through each of them: eagerly, under autocast and inside `torch.compile`. Where a fused
kernel has no forward derivative, or breaks under one of these, or where PyTorch's rule is slow, a layer looks
at its input: one that carries a tangent takes a path of its own, every other the kernel. Callers need do
nothing.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.autograd.forward_ad import make_dual, unpack_dual

from consistency.errors import UserError, fraction, positive, within

WIDEST = 2**24  # units of a layer; whether the whole fits into memory is seen before it is built
DEEPEST = 1000  # blocks of a level


def check_dropout_and_blocks(dropout: float, blocks: int, **widths: int) -> None:
    """Refuse a network without units or without blocks, or one that drops all of its units."""
    fraction("net", dropout=dropout)
    within("net", 1, DEEPEST, blocks=blocks)
    within("net", 1, WIDEST, **widths)


def check_features(channels: int) -> None:
    """Refuse an embedding that is no sines and as many cosines."""
    within("net.embedding", 2, WIDEST, channels=channels)
    if channels % 2:
        raise UserError(f"net.embedding.channels={channels} must be even: half are sines, half cosines")


def check_multipliers(channels: int, multipliers: Sequence[int]) -> None:
    """Refuse levels without channels, or none."""
    if not multipliers or not all(m >= 1 and channels * m <= WIDEST for m in multipliers):
        raise UserError(
            f"net.multipliers={list(multipliers)} must be a list of numbers from 1 on, and times "
            f"net.channels={channels} at most {WIDEST}"
        )


def has_tangent(x: Tensor) -> bool:
    """Whether x is being differentiated in forward mode, by the innermost transform that is at work."""
    return unpack_dual(x).tangent is not None


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Autocast switched off on the device of x; nothing at all where it is off, to keep exports plain."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()


def at_least_float32(x: Tensor) -> Tensor:
    """x with half precision widened to float32; float32 and float64 as they are."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def affinely(
    layer: nn.Module, f: Callable[[Tensor], Tensor], slope: Callable[[Tensor], Tensor], x: Tensor
) -> Tensor:
    """f(x), for the f of a layer that is affine in x, and slope(dx) for its tangent.

    PyTorch's rule has a third term, of x and the tangent of the weights, and computes it though that is zero:
    three convolutions instead of two. It is left to those who differentiate the weights as well.
    """
    value, dx = unpack_dual(x)
    if dx is None or any(map(has_tangent, layer.parameters())):
        return f(x)
    return make_dual(f(value), slope(dx))


class Linear(nn.Linear):
    """`nn.Linear`, with a cheaper forward derivative."""

    def forward(self, input: Tensor) -> Tensor:
        """[..., n_out] from [..., n_in]."""
        return affinely(self, super().forward, lambda dx: F.linear(dx, self.weight), input)


class Conv2d(nn.Conv2d):
    """`nn.Conv2d`, with a cheaper forward derivative."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, n_out, H', W'] from [B, n_in, H, W]."""
        return affinely(self, super().forward, lambda dx: self._conv_forward(dx, self.weight, None), input)


def linear(n_in: int, n_out: int, gain: float = 1.0, bias: bool = True) -> Linear:
    """A linear layer initialised as EDM's (2206.00364): Xavier-uniform weights times `gain`, zero bias."""
    layer = Linear(n_in, n_out, bias)
    _initialise(layer.weight, layer.bias, gain)
    return layer


def conv(n_in: int, n_out: int, kernel: int, gain: float = 1.0, margin: int = 0, stride: int = 1) -> Conv2d:
    """A convolution, likewise. At stride 1 it keeps the resolution and adds `margin` pixels on each side."""
    layer = Conv2d(n_in, n_out, kernel, stride, padding=kernel // 2 + margin)
    _initialise(layer.weight, layer.bias, gain)
    return layer


def _initialise(weight: Tensor, bias: Tensor | None, gain: float) -> None:
    nn.init.xavier_uniform_(weight, gain)
    if bias is not None:
        nn.init.zeros_(bias)


class Embedding(Protocol):
    """Features of a number per sample, (c_noise [B]) -> [B, channels], never below float32."""

    channels: int

    def __call__(self, noise: Tensor) -> Tensor:
        """The features of c_noise [B]."""
        ...


def waves(noise: Tensor, frequencies: Tensor) -> Tensor:
    """[sin, cos] of c_noise [B] times the frequencies [n], in the wider of their precisions: [B, 2n]."""
    angles = noise[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


class PositionalEmbedding(nn.Module):
    """Sinusoids of geometric frequencies from 1 to 1e-4, ends included (DDPM++ of 2011.13456, as EDM has it).

    Args:
        channels: number of features.
        shift: 1 for both ends, 0 to stop one frequency before 1e-4.
        flip: cosines before sines.
    """

    def __init__(self, channels: int, shift: int = 1, flip: bool = False) -> None:
        super().__init__()
        check_features(channels)
        within("net.embedding", 0, 1, shift=shift)
        self.channels, self.shift, self.flip = channels, shift, flip

    def forward(self, noise: Tensor) -> Tensor:
        """The features [B, channels] of c_noise [B]."""
        n = self.channels // 2
        place = torch.arange(n, device=noise.device, dtype=at_least_float32(noise).dtype)
        features = waves(noise, 1e-4 ** (place / max(n - self.shift, 1)))
        return features.roll(n, 1) if self.flip else features


class FourierEmbedding(nn.Module):
    """Sinusoids of random frequencies, N(0, (2π scale)²), drawn once and kept in the state_dict (NCSN++).

    Args:
        channels: number of features.
        scale: standard deviation in turns per unit of c_noise. 16 belongs to c_noise = ln(σ)/4: with the
            250 ln(σ) of other networks the features are chaos.
    """

    frequencies: Tensor

    def __init__(self, channels: int, scale: float = 16.0) -> None:
        super().__init__()
        check_features(channels)
        positive("net.embedding", scale=scale)
        self.channels = channels
        self.register_buffer("frequencies", torch.randn(channels // 2) * scale)

    def forward(self, noise: Tensor) -> Tensor:
        """The features [B, channels] of c_noise [B]."""
        return waves(noise, 2 * math.pi * self.frequencies)

    def _apply(self, fn, recurse: bool = True):  # noqa: ANN001, ANN202 (as in nn.Module)
        """Move, but never below float32: a rounded frequency is another function."""
        exact = self.frequencies
        super()._apply(fn, recurse)
        if self.frequencies.dtype.itemsize < 4:
            self.frequencies = exact.to(self.frequencies.device)
        return self


def one_hot(label: Tensor | None, classes: int, noise: Tensor) -> Tensor:
    """Classes as EDM feeds them, [B, classes]: one-hot rows times √classes, zeros for label -1 or none."""
    if label is None:
        return noise.new_zeros(noise.shape[0], classes)  # len(noise) would be a constant in an export
    rows = F.one_hot(label.clamp(min=0), classes) * (label >= 0)[:, None]
    return rows.to(noise.dtype) * math.sqrt(classes)


def normalise_axis(x: Tensor, axis: int, eps: float) -> Tensor:
    """x over the root of its mean square (plus eps) along an axis."""
    x, dx = unpack_dual(x)
    scale = (x.square().mean(axis, keepdim=True) + eps).rsqrt()
    unit = x * scale
    if dx is None:
        return unit
    return make_dual(unit, scale * (dx - unit * (unit * dx).mean(axis, keepdim=True)))


def standardise(x: Tensor, eps: float) -> Tensor:
    """x with zero mean and unit variance (plus eps) along its last axis, at least in float32."""
    x = at_least_float32(x)
    return normalise_axis(x - x.mean(-1, keepdim=True), -1, eps)


class LayerNorm(nn.LayerNorm):
    """Normalisation of the units of a sample [B, width]: parameters and result of `nn.LayerNorm`."""

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input, in its dtype."""
        output = self.primitive(input) if has_tangent(input) else super().forward(input)
        return output.to(input.dtype)

    def primitive(self, x: Tensor) -> Tensor:
        """The same in means and square roots."""
        unit = standardise(x, self.eps)
        return affinely(self, lambda u: u * self.weight + self.bias, lambda du: du * self.weight, unit)


class GroupNorm(nn.GroupNorm):
    """Normalisation of groups of channels: parameters and result of `nn.GroupNorm`.

    Args:
        channels: C of the input [B, C, ...].
        groups: by default the largest divisor of C that is at most 32 and leaves 4 channels to a group.
        eps: added to the variance.
    """

    def __init__(self, channels: int, groups: int | None = None, eps: float = 1e-6) -> None:
        most = max(1, min(32, channels // 4))
        groups = groups or next(g for g in range(most, 0, -1) if channels % g == 0)
        super().__init__(groups, channels, eps)

    def forward(self, input: Tensor) -> Tensor:
        """The normalised input [B, C, ...], in its dtype."""
        output = self.primitive(input) if has_tangent(input) else super().forward(input)
        return output.to(input.dtype)

    def primitive(self, x: Tensor) -> Tensor:
        """The same in means and square roots."""
        unit = standardise(x.reshape(len(x), self.num_groups, -1), self.eps).reshape(x.shape)
        w, b = (p.view(-1, *[1] * (x.ndim - 2)) for p in (self.weight, self.bias))
        return affinely(self, lambda u: u * w + b, lambda du: du * w, unit)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v for [..., tokens, d]."""
    if not has_tangent(q):
        return F.scaled_dot_product_attention(q, k, v)
    scores = at_least_float32(q @ k.mT) / math.sqrt(q.shape[-1])
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Self-attention between pixels, without the residual. Its channels are in EDM's order, so weights port.

    Args:
        channels: C of the input [B, C, H, W].
        heads: number of heads, a divisor of C.
        eps: of the normalisation of the input.
        groups: of that normalisation; None for the default of `GroupNorm`.
    """

    def __init__(self, channels: int, heads: int = 1, eps: float = 1e-6, groups: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.norm = GroupNorm(channels, groups, eps)
        self.qkv = conv(channels, 3 * channels, 1, gain=math.sqrt(0.2))
        self.proj = conv(channels, channels, 1, gain=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """What each pixel of x [B, C, H, W] receives from all others."""
        qkv = rearrange(self.qkv(self.norm(x)), "b (n c p) h w -> p b n (h w) c", n=self.heads, p=3)
        a = attend(*qkv.contiguous())
        return self.proj(rearrange(a, "b n (h w) c -> b (n c) h w", h=x.shape[2]))
