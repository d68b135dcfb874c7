"""The U-Net of ablated diffusion models, ADM (2105.05233, section 3): ImageNet and LSUN."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consistency.errors import UserError, within
from consistency.model.condition import NONE, Condition, takes
from consistency.nets.conditioning import Conditioning
from consistency.nets.layers import (
    Attention,
    Conv2d,
    Embedding,
    GroupNorm,
    Linear,
    PositionalEmbedding,
    check_dropout_and_blocks,
    check_multipliers,
)
from consistency.nets.levels import Level, check_divides, resolutions_of
from consistency.nets.modulation import Added, Modulation, ScaleShift
from consistency.nets.resampling import Down, Up
from consistency.nets.second import check_number_of_times, check_second

EPS = 1e-5  # of all normalisations


def zero(layer: Conv2d) -> Conv2d:
    """The layer with weights and biases of 0: what it adds is nothing until it has learned."""
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def attention(channels: int, head_channels: int, groups: int | None) -> Attention:
    """Attention in heads of `head_channels`, as ADM initialises it.

    Raises:
        UserError: the channels cannot be divided into such heads.
    """
    if channels % head_channels:
        raise UserError(f"net.head_channels={head_channels} does not divide {channels} channels")
    layer = Attention(channels, channels // head_channels, EPS, groups)
    layer.qkv.reset_parameters()
    zero(layer.proj)
    return layer


class Block(nn.Module):
    """Norm, SiLU, resample, conv, modulated norm, SiLU, dropout, conv; then, perhaps, attention. Residual.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        attends: whether pixels attend to each other.
        width: size of the conditioning vector.
        dropout: probability of dropping a unit in training.
        head_channels: channels of a head of attention.
        modulation: how the conditioning vector enters.
        resample: Up, Down or None.
        groups: of every normalisation; None for the default of `GroupNorm`.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        attends: bool,
        width: int,
        dropout: float,
        head_channels: int,
        modulation: Modulation,
        resample: nn.Module | None = None,
        groups: int | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.modulation = n_in, n_out, modulation
        self.norm0, self.conv0 = GroupNorm(n_in, groups, EPS), Conv2d(n_in, n_out, 3, padding=1)
        self.norm1, self.conv1 = GroupNorm(n_out, groups, EPS), zero(Conv2d(n_out, n_out, 3, padding=1))
        self.affine, self.dropout = Linear(width, modulation.vectors * n_out), nn.Dropout(dropout)
        self.resample = resample or nn.Identity()
        self.skip = Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()
        self.attention = attention(n_out, head_channels, groups) if attends else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, n_out, H', W'] from x [B, n_in, H, W] and emb [B, width]."""
        h = self.conv0(self.resample(F.silu(self.norm0(x))))
        h = self.modulation(self.norm1, h, self.affine(emb)[:, :, None, None])
        h = self.skip(self.resample(x)) + self.conv1(self.dropout(F.silu(h)))
        return h if self.attention is None else h + self.attention(h)


def encoder(levels: Sequence[Level], blocks: int, make: Callable[..., Block]) -> Iterator[Block]:
    """The blocks after the stem, from fine to coarse."""
    n = levels[0].width
    for i, level in enumerate(levels):
        if i:
            yield make(n, n, False, resample=Down(1, 1))
        for _ in range(blocks):
            yield make(n, level.width, level.attention)
            n = level.width


def decoder(
    levels: Sequence[Level], blocks: int, make: Callable[..., Block], skips: Sequence[int]
) -> Iterator[Block]:
    """The two blocks in the middle and those to the image's resolution; `skips`: the encoder's widths."""
    skips, n = list(skips), levels[-1].width
    yield from (make(n, n, True), make(n, n, False))
    for level in reversed(levels):
        if level is not levels[-1]:
            yield make(n, n, False, resample=Up(1, 1))
        for _ in range(blocks):
            yield make(n + skips.pop(), level.width, level.attention)
            n = level.width


class ADM(nn.Module):
    """ADM as EDM and OpenAI's consistency models have it: resampling in residual blocks, heads of equal size.

    Called as net(x [B, C, H, W], c_noise [B], c) -> like x; of two times as net(x, c_noise, c, h [B]). By
    default ImageNet 64x64's.

    Args:
        shape: (C, H, W) of an image.
        classes: number of classes, 0 for an unconditional network. Label -1, or no label, means no class.
        channels: width in units of which `multipliers` are given.
        multipliers: channels of each level. Each level halves the resolution.
        blocks: residual blocks per level in the encoder; the decoder has one more.
        attention: resolutions with attention, beside the coarsest. One that no level has is ignored.
        head_channels: channels of a head of attention.
        dropout: probability of dropping a unit in training.
        scale_shift: whether the embedding scales and shifts what is normalised; else it is added before.
        embedding: features of c_noise, by default a PositionalEmbedding, cosines first, without its last end.
        modulation: how the embedding enters a block, if in neither of these two ways.
        groups: of every normalisation. None for EDM's rule: 32, or fewer where a group would have less than 4
            channels; OpenAI's code and diffusers have one number for all.
        augment: size of an augmentation label, 9 for networks that EDM's code trained with augmentation.
        times: 2 for a network that is also given h in [0, 1], the second time of a flow map.

    Raises:
        UserError: an image that cannot be halved so often, or no image; channels that are no whole heads, or
            no whole groups.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        channels: int = 192,
        multipliers: Sequence[int] = (1, 2, 3, 4),
        blocks: int = 3,
        attention: Sequence[int] = (32, 16, 8),
        head_channels: int = 64,
        dropout: float = 0.0,
        scale_shift: bool = True,
        embedding: Embedding | None = None,
        modulation: Modulation | None = None,
        groups: int | None = None,
        augment: int = 0,
        times: int = 1,
    ) -> None:
        super().__init__()
        check_number_of_times(times)
        within("net", 0, 1024, augment=augment)
        given = {} if groups is None else {"groups": groups}
        check_dropout_and_blocks(dropout, blocks, channels=channels, head_channels=head_channels, **given)
        check_multipliers(channels, multipliers)
        resolutions, width = resolutions_of(shape, len(multipliers)), 4 * channels
        levels = [Level(channels * m, r in attention) for m, r in zip(multipliers, resolutions, strict=True)]
        if groups is not None:
            check_divides(levels, "groups", groups)
        how = modulation or (ScaleShift() if scale_shift else Added())
        common = {"head_channels": head_channels, "modulation": how, "groups": groups}
        make = partial(Block, width=width, dropout=dropout, **common)
        embedding = embedding or PositionalEmbedding(channels, shift=0, flip=True)
        n = levels[0].width
        self.size, self.takes = tuple(shape[1:]), takes(label=classes, augment=augment)
        self.augment, self.times = augment, times
        self.conditioning = Conditioning(embedding, width, classes, augment, times)
        self.conditioning.layer0.reset_parameters()
        self.conditioning.layer1.reset_parameters()
        self.stem = Conv2d(shape[0], n, 3, padding=1)
        self.encoder = nn.ModuleList(down := list(encoder(levels, blocks, make)))
        skips = [n, *(block.n_out for block in down)]
        self.decoder = nn.ModuleList(decoder(levels, blocks + 1, make, skips))
        self.head = nn.Sequential(
            GroupNorm(n, groups, EPS), nn.SiLU(), zero(Conv2d(n, shape[0], 3, padding=1))
        )

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE, h: Tensor | None = None) -> Tensor:
        """F(x [B, C, H, W], c_noise [B], c), or F(x, c_noise, c, h [B]) of two times; like x."""
        check_second(self.times, h)
        emb, y = self.conditioning(noise, c, h), self.stem(x)
        skips = [y]
        for block in self.encoder:
            y = block(y, emb)
            skips.append(y)
        for block in self.decoder:
            takes_skip = block.n_in != y.shape[1]  # all but those in the middle and those that resample
            y = block(torch.cat([y, skips.pop()], 1) if takes_skip else y, emb)
        return self.head(y)
