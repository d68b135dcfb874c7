"""The U-Net of score-based models: DDPM++ and NCSN++ (2011.13456), as EDM has them (2206.00364, table 7)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from consistency.errors import within
from consistency.model.condition import NONE, Condition, takes
from consistency.nets.layers import (
    Attention,
    Embedding,
    GroupNorm,
    PositionalEmbedding,
    check_dropout_and_blocks,
    check_multipliers,
    conv,
    linear,
    one_hot,
    without_autocast,
)
from consistency.nets.levels import Level, patched, resolutions_of
from consistency.nets.modulation import Added, Modulation
from consistency.nets.resampling import Down, PyramidDown, Up
from consistency.nets.second import check_number_of_times, check_second, second_layer, with_second

HALF = math.sqrt(0.5)  # the sum of two unit-variance branches, times this, has unit variance


class Conditioning(nn.Module):
    """The embedding of noise level, class and augmentation, (c_noise [B], c) -> [B, width].

    It is computed in full precision: bfloat16 cannot tell neighbouring noise levels apart.

    Args:
        embedding: features of the noise level.
        width: size of the vector.
        classes: number of classes, 0 for none.
        augment: size of the augmentation label of an EDM teacher, 0 for none.
        times: 1, or 2 of a network that is also given the second time of a flow map.
    """

    def __init__(self, embedding: Embedding, width: int, classes: int, augment: int, times: int) -> None:
        super().__init__()
        self.embedding, self.classes = embedding, classes
        self.label = linear(classes, embedding.channels) if classes else None
        self.augment = linear(augment, embedding.channels, bias=False) if augment else None
        self.layer0, self.layer1 = linear(embedding.channels, width), linear(width, width)
        self.second_time = second_layer(times, width)

    def forward(self, noise: Tensor, c: Condition, h: Tensor | None = None) -> Tensor:
        """The vector [B, width] of c_noise [B], the class and augmentation of c, and h [B] of two times."""
        with without_autocast(noise):
            features = self.embedding(noise).to(self.layer0.weight.dtype)
            features = features + self._class(c.label, features) + self._augmentation(c.augment, features)
            emb = self.layer1(F.silu(self.layer0(features)))
            return F.silu(with_second(self.second_time, emb, h))

    def of_augmentation(self) -> nn.Module:
        """The part that only labels of augmentation reach."""
        return self.augment or nn.Identity()

    def _class(self, label: Tensor | None, features: Tensor) -> Tensor | float:
        row = one_hot(label, self.classes, features[:, 0])
        return self.label(row) if self.label else 0.0

    def _augmentation(self, augment: Tensor | None, features: Tensor) -> Tensor | float:
        if augment is None or self.augment is None:
            return 0.0
        return self.augment(augment.to(features))


class Block(nn.Module):
    """Norm, SiLU, resample, conv, modulated norm, SiLU, dropout, conv; then, perhaps, attention. Residual.

    Args:
        n_in: channels of the input.
        n_out: channels of the output.
        width: size of the conditioning vector.
        dropout: probability of dropping a unit in training.
        modulation: how the conditioning vector enters.
        attention: whether pixels attend to each other.
        resample: Up, Down or None.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        width: int,
        dropout: float,
        modulation: Modulation,
        attention: bool,
        resample: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.n_in, self.n_out, self.modulation = n_in, n_out, modulation
        self.norm0, self.conv0 = GroupNorm(n_in), conv(n_in, n_out, 3)
        self.norm1, self.conv1 = GroupNorm(n_out), conv(n_out, n_out, 3, gain=1e-5)
        self.affine, self.dropout = linear(width, modulation.vectors * n_out), nn.Dropout(dropout)
        self.resample = resample or nn.Identity()
        self.skip = conv(n_in, n_out, 1) if resample or n_in != n_out else nn.Identity()
        self.attention = Attention(n_out) if attention else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """[B, n_out, H', W'] from x [B, n_in, H, W] and emb [B, width]."""
        h = self.conv0(self.resample(F.silu(self.norm0(x))))
        h = self.modulation(self.norm1, h, self.affine(emb)[:, :, None, None])
        h = self.conv1(self.dropout(F.silu(h)))
        h = HALF * (self.skip(self.resample(x)) + h)
        return h if self.attention is None else HALF * (h + self.attention(h))


class Encoder(nn.Module):
    """From an image to the features of every level, kept for the decoder.

    Args:
        n_image: channels of the image.
        channels: channels of the first features.
        levels: from fine to coarse.
        blocks: residual blocks per level.
        make: builds a Block(n_in, n_out, attention, resample).
        taps: of the filter that halves the resolution.
        input_pyramid: whether the down-sampled image is a further input of each level.
    """

    def __init__(
        self,
        n_image: int,
        channels: int,
        levels: Sequence[Level],
        blocks: int,
        make: Callable[..., Block],
        taps: Sequence[float],
        input_pyramid: bool,
    ) -> None:
        super().__init__()
        self.stem = conv(n_image, channels, 3)
        self.blocks, self.pyramid, self.widths = nn.ModuleList(), nn.ModuleDict(), [channels]
        for i, level in enumerate(levels):
            n = self.widths[-1]
            if i and input_pyramid:
                self.pyramid[str(len(self.blocks))] = PyramidDown(n_image, n, *taps)
                n_image = n
            if i:
                self._append(make(n, n, attention=False, resample=Down(*taps)))
            for _ in range(blocks):
                self._append(make(self.widths[-1], level.width, attention=level.attention))

    def _append(self, block: Block) -> None:
        self.blocks.append(block)
        self.widths.append(block.n_out)

    def forward(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """The features of the stem and of each block, from x [B, C, H, W] and emb [B, width]."""
        h = self.stem(x)
        skips = [h]
        for i, block in enumerate(self.blocks):
            h = block(h, emb)
            if str(i) in self.pyramid:
                h = x = HALF * (h + self.pyramid[str(i)](x))
            skips.append(h)
        return skips


class Decoder(nn.Module):
    """From the features of every level back to the resolution of the image.

    Args:
        skips: channels of the features that the encoder kept.
        levels: from fine to coarse.
        blocks: residual blocks per level, of which only the last may have attention.
        make: builds a Block(n_in, n_out, attention, resample).
        taps: of the filter that doubles the resolution.
    """

    def __init__(
        self,
        skips: Sequence[int],
        levels: Sequence[Level],
        blocks: int,
        make: Callable[..., Block],
        taps: Sequence[float],
    ) -> None:
        super().__init__()
        skips, n = list(skips), skips[-1]
        self.blocks = nn.ModuleList([make(n, n, attention=True), make(n, n, attention=False)])
        for level in reversed(levels):
            if level is not levels[-1]:
                self.blocks.append(make(n, n, attention=False, resample=Up(*taps)))
            for last in [False] * (blocks - 1) + [True]:
                self.blocks.append(make(n + skips.pop(), level.width, attention=level.attention and last))
                n = level.width

    def forward(self, skips: Sequence[Tensor], emb: Tensor) -> Tensor:
        """[B, n, H, W] from what the encoder kept. A block that is wider than h takes a skip."""
        skips, h = list(skips), skips[-1]
        for block in self.blocks:
            takes_skip = block.n_in != h.shape[1]
            h = block(torch.cat([h, skips.pop()], 1) if takes_skip else h, emb)
        return h


class UNet(nn.Module):
    """DDPM++ by default; NCSN++ with a FourierEmbedding, taps (1, 3, 3, 1) and the input pyramid.

    Called as net(x [B, C, H, W], c_noise [B], c) -> like x; of two times as net(x, c_noise, c, h [B]).

    Args:
        shape: (C, H, W) of an image.
        classes: number of classes, 0 for an unconditional network. Label -1, or no label, means no class.
        channels: of the first level.
        multipliers: channels of each level, in units of `channels`. Each level halves the resolution.
        blocks: residual blocks per level in the encoder; the decoder has one more.
        attention: resolutions with attention. One that no level has is ignored.
        dropout: probability of dropping a unit in training.
        embedding: features of c_noise, by default a PositionalEmbedding of `channels`.
        taps: of the filter that changes the resolution.
        input_pyramid: whether the down-sampled image is a further input of each level.
        augment: size of an augmentation label, 9 for EDM's teachers.
        modulation: how the embedding enters a block, by default Added.
        patch: side of the squares of pixels that the first level takes as one, each with all of theirs as
            channels (2301.11093, section 3.2); 2 costs a quarter.
        times: 2 for a network that is also given h in [0, 1], the second time of a flow map.

    Raises:
        UserError: an image that cannot be divided or halved so often, or no image.
    """

    def __init__(
        self,
        shape: Sequence[int],
        classes: int = 0,
        channels: int = 128,
        multipliers: Sequence[int] = (2, 2, 2),
        blocks: int = 4,
        attention: Sequence[int] = (16,),
        dropout: float = 0.0,
        embedding: Embedding | None = None,
        taps: Sequence[float] = (1, 1),
        input_pyramid: bool = False,
        augment: int = 0,
        modulation: Modulation | None = None,
        patch: int = 1,
        times: int = 1,
    ) -> None:
        super().__init__()
        check_number_of_times(times)
        check_dropout_and_blocks(dropout, blocks, channels=channels)
        check_multipliers(channels, multipliers)
        within("net", 0, 1024, augment=augment)
        self.augment, self.patch, self.takes = augment, patch, takes(label=classes, augment=augment)
        self.times = times
        n_image, *_ = shape = patched(shape, patch)
        resolutions = resolutions_of(shape, len(multipliers), patch)
        levels = [Level(channels * m, r in attention) for m, r in zip(multipliers, resolutions, strict=True)]
        embedding = embedding or PositionalEmbedding(channels)
        make = partial(Block, width=4 * channels, dropout=dropout, modulation=modulation or Added())
        self.conditioning = Conditioning(embedding, 4 * channels, classes, augment, times)
        self.encoder = Encoder(n_image, channels, levels, blocks, make, taps, input_pyramid)
        self.decoder = Decoder(self.encoder.widths, levels, blocks + 1, make, taps)
        n = levels[0].width
        self.head = nn.Sequential(GroupNorm(n), nn.SiLU(), conv(n, n_image, 3, gain=1e-5))

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE, h: Tensor | None = None) -> Tensor:
        """F(x [B, C, H, W], c_noise [B], c), or F(x, c_noise, c, h [B]) of two times; like x."""
        check_second(self.times, h)
        emb = self.conditioning(noise, c, h)
        features = self.encoder(F.pixel_unshuffle(x, self.patch), emb)
        return F.pixel_shuffle(self.head(self.decoder(features, emb)), self.patch)
