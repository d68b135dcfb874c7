"""The U-Net of DDPM (2006.11239, appendix B), as diffusers has it for google/ddpm-cifar10-32 and its kin."""

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from consistency.errors import positive, within
from consistency.model.condition import NONE, Condition, takes
from consistency.nets.conditioning import Conditioning
from consistency.nets.layers import (
    Embedding,
    GroupNorm,
    PositionalEmbedding,
    attend,
    check_dropout_and_blocks,
    check_multipliers,
    conv,
    linear,
)
from consistency.nets.levels import Level, check_divides, resolutions_of
from consistency.nets.second import check_number_of_times, check_second


class Attention(nn.Module):
    """Self-attention between pixels, with the residual.

    Args:
        norm: of the input.
        channels: C of the input [B, C, H, W].
        heads: number of heads, a divisor of C.
    """

    def __init__(self, norm: nn.Module, channels: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = norm, heads
        self.query, self.key, self.value = (linear(channels, channels) for _ in range(3))
        self.out = linear(channels, channels, gain=1e-5)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] and what each pixel receives from all others."""
        pixels = rearrange(self.norm(x), "b c h w -> b (h w) c")
        q, k, v = (self._split(layer(pixels)) for layer in (self.query, self.key, self.value))
        received = self.out(rearrange(attend(q, k, v), "b n t c -> b t (n c)"))
        return x + rearrange(received, "b (h w) c -> b c h w", h=x.shape[2])

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (n c) -> b n t c", n=self.heads).contiguous()


class Block(nn.Module):
    """Norm, SiLU, conv, + embedding, norm, SiLU, dropout, conv, residual; then, perhaps, attention.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        attention: whether pixels attend to each other.
        norm: builds the normalisation of n channels.
        width: size of the conditioning vector.
        dropout: probability of dropping a unit in training.
        head_channels: channels of a head, None for one head.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        attention: bool,
        norm: Callable[[int], nn.Module],
        width: int,
        dropout: float,
        head_channels: int | None,
    ) -> None:
        super().__init__()
        self.norm0, self.conv0 = norm(n_in), conv(n_in, n_out, 3)
        self.norm1, self.conv1 = norm(n_out), conv(n_out, n_out, 3, gain=1e-5)
        self.affine, self.dropout = linear(width, n_out), nn.Dropout(dropout)
        self.skip = conv(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        heads = n_out // (head_channels or n_out)
        self.attention = Attention(norm(n_out), n_out, heads) if attention else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, n_out, H, W] from x [B, n_in, H, W] and emb [B, width]."""
        h = self.conv0(F.silu(self.norm0(x))) + self.affine(emb)[:, :, None, None]
        h = self.conv1(self.dropout(F.silu(self.norm1(h))))
        return self.attention(self.skip(x) + h)


class DownStage(nn.Module):
    """One resolution on the way down.

    Args:
        blocks: its residual blocks.
        resample: to the next resolution, None at the coarsest.
    """

    def __init__(self, blocks: Sequence[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, h: Tensor, emb: Tensor) -> list[Tensor]:
        """The features after each block and, last, at the next resolution: what the way up will need."""
        features = [h]
        for block in self.blocks:
            features.append(block(features[-1], emb))
        return features[1:] + ([self.resample(features[-1])] if self.resample else [])


class UpStage(nn.Module):
    """One resolution on the way up.

    Args:
        blocks: its residual blocks.
        resample: to the next resolution, None at the finest.
    """

    def __init__(self, blocks: Sequence[Block], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, h: Tensor, emb: Tensor, skips: list[Tensor]) -> Tensor:
        """The features at the next resolution. Each block takes the last of the skips away."""
        for block in self.blocks:
            h = block(torch.cat([h, skips.pop()], 1), emb)
        return self.resample(h) if self.resample else h


def halve(channels: int, padding: int) -> nn.Sequential:
    """A convolution of stride 2: zeros on every side, or right and below only where `padding` is 0."""
    return nn.Sequential(
        nn.ZeroPad2d((padding, 1, padding, 1)), conv(channels, channels, 3, margin=-1, stride=2)
    )


def double(channels: int) -> nn.Sequential:
    """Every pixel four times, then a convolution."""
    return nn.Sequential(nn.Upsample(scale_factor=2), conv(channels, channels, 3))


class DDPMUNet(nn.Module):
    """DDPM's U-Net; the defaults are those of google/ddpm-cifar10-32.

    Called as net(x [B, C, H, W], noise [B], c) -> like x; of two times as net(x, noise, c, h [B]). `noise` is
    the index of the level, from 0 to T - 1 and not necessarily whole.

    Args:
        shape: (C, H, W) of an image.
        classes: number of classes, 0 for an unconditional network. Label -1, or no label, means no class.
        channels: of the first level.
        multipliers: channels of each level, in units of `channels`. Each level halves the resolution.
        blocks: residual blocks per level on the way down; on the way up there is one more.
        attention: resolutions with attention. One that no level has is ignored; the middle always has it.
        dropout: probability of dropping a unit in training.
        groups: of every group normalisation.
        eps: of every group normalisation.
        head_channels: channels of an attention head, None for one head.
        padding: rows of zeros above and to the left where the resolution is halved: 0, as DDPM, or 1.
        embedding: features of `noise`, by default a PositionalEmbedding of `channels`.
        times: 2 for a network that is also given h in [0, 1], the second time of a flow map.

    Raises:
        UserError: an image that cannot be halved so often, no image, or channels that cannot be divided.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        groups: int = 32,
        eps: float = 1e-6,
        head_channels: int | None = None,
        padding: int = 0,
        embedding: Embedding | None = None,
        times: int = 1,
    ) -> None:
        super().__init__()
        heads = {} if head_channels is None else {"head_channels": head_channels}
        check_dropout_and_blocks(dropout, blocks, channels=channels, groups=groups, **heads)
        check_multipliers(channels, multipliers)
        positive("net", eps=eps)
        within("net", 0, 1, padding=padding)
        resolutions = resolutions_of(shape, len(multipliers))
        levels = [Level(channels * m, r in attention) for m, r in zip(multipliers, resolutions, strict=True)]
        check_divides(levels, "groups", groups)
        check_divides(levels, "head_channels", head_channels or 1)
        self.size, self.head_channels, self.padding = tuple(shape[1:]), head_channels, padding
        check_number_of_times(times)
        self.takes, self.times = takes(label=classes), times
        norm, width = partial(GroupNorm, groups=groups, eps=eps), 4 * channels
        make = partial(Block, norm=norm, width=width, dropout=dropout, head_channels=head_channels)
        embedding = embedding or PositionalEmbedding(channels)
        self.conditioning = Conditioning(embedding, width, classes, times=times)
        self.stem, n = conv(shape[0], channels, 3), levels[-1].width
        self.down, widths = _way_down(channels, levels, blocks, make, padding)
        self.middle = nn.ModuleList([make(n, n, attention=True), make(n, n, attention=False)])
        self.up = _way_up(widths, levels, blocks + 1, make)
        n = levels[0].width
        self.head = nn.Sequential(norm(n), nn.SiLU(), conv(n, shape[0], 3, gain=1e-5))

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE, h: Tensor | None = None) -> Tensor:
        """F(x [B, C, H, W], noise [B], c), or F(x, noise, c, h [B]) of two times; like x."""
        check_second(self.times, h)
        emb = self.conditioning(noise, c, h)
        skips = [self.stem(x)]
        for stage in self.down:
            skips += stage(skips[-1], emb)
        y = skips[-1]
        for block in self.middle:
            y = block(y, emb)
        for stage in self.up:
            y = stage(y, emb, skips)
        return self.head(y)


def _way_down(
    n: int, levels: Sequence[Level], blocks: int, make: Callable[..., Block], padding: int
) -> tuple[nn.ModuleList, list[int]]:
    """The stages from fine to coarse, and the channels of everything that they keep for the way up."""
    stages, widths = nn.ModuleList(), [n]
    for level in levels:
        chain = [make(m, level.width, attention=level.attention) for m in _widths(widths[-1], level, blocks)]
        last = level is levels[-1]
        stages.append(DownStage(chain, None if last else halve(level.width, padding)))
        widths += [level.width] * (blocks if last else blocks + 1)
    return stages, widths


def _way_up(
    skips: Sequence[int], levels: Sequence[Level], blocks: int, make: Callable[..., Block]
) -> nn.ModuleList:
    """The stages from coarse to fine; each block is as wide as its predecessor and a skip together."""
    stages, skips, n = nn.ModuleList(), list(skips), levels[-1].width
    for level in reversed(levels):
        wide = [m + skips.pop() for m in _widths(n, level, blocks)]
        chain = [make(m, level.width, attention=level.attention) for m in wide]
        stages.append(UpStage(chain, None if level is levels[0] else double(level.width)))
        n = level.width
    return stages


def _widths(n: int, level: Level, blocks: int) -> list[int]:
    """Channels that reach each block of a level, n those that reach the first."""
    return [n] + [level.width] * (blocks - 1)
