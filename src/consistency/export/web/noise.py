"""The noise of the page, number for number: Philox 4x32-10 (Salmon et al. 2011) and Box-Muller.

A counter-based generator: the numbers of an image are a function of what they are for, so that a picture is
known by its seed, in the browser as in Python.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

SAMPLES, EDITS = range(2)  # what noise is for
WORD = np.uint64(0xFFFFFFFF)


def philox(counter: Sequence[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Four arrays of 32-bit words, held in uint64, from four like them and two words of key."""
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (
            (second >> np.uint64(32)) ^ c1 ^ np.uint64(k0),
            second & WORD,
            (first >> np.uint64(32)) ^ c3 ^ np.uint64(k1),
            first & WORD,
        )
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return [c0, c1, c2, c3]


def normals(seed: int, purpose: int, images: Sequence[int], call: int, shape: Sequence[int]) -> Tensor:
    """Standard normal numbers, float32 [len(images), *shape], of one network call for each image.

    Args:
        seed: 32 bits.
        purpose: SAMPLES or EDITS.
        images: their numbers.
        call: number of the network call.
        shape: of one image.
    """
    n = prod(shape)
    image, block = np.meshgrid(np.array(images), np.arange(-(-n // 4)), indexing="ij")
    words = philox([block, np.full_like(block, call), image, np.full_like(block, purpose)], (seed, 0))
    z = np.empty((*block.shape, 4))
    for pair in (0, 2):
        radius = np.sqrt(-2 * np.log((words[pair] + 0.5) / 2**32))
        angle = 2 * np.pi * words[pair + 1] / 2**32
        z[..., pair], z[..., pair + 1] = radius * np.cos(angle), radius * np.sin(angle)
    flat = z.reshape(len(images), -1)[:, :n].astype(np.float32)
    return torch.from_numpy(flat).reshape(len(images), *shape)


class PageDraws:
    """The noise that the page gives to edits, call after call; satisfies `Draws`.

    Args:
        seed: 32 bits.
        images: numbers of the samples of the batch.
    """

    def __init__(self, seed: int, images: Sequence[int]) -> None:
        self.seed, self.images, self.call = seed, images, 0

    def normal(self, x: Tensor) -> Tensor:
        """Standard normal numbers shaped like x [B, ...]."""
        self.call += 1
        return normals(self.seed, EDITS, self.images, self.call - 1, x.shape[1:]).to(x)

    def uniform(self, n: int, device: torch.device) -> Tensor:
        """Uniform numbers on [0, 1), float64 [n], one for each image."""
        self.call += 1
        zero = np.zeros(n, np.int64)
        counter = [zero, np.full_like(zero, self.call - 1), np.array(self.images[:n]), zero + EDITS]
        return torch.from_numpy(philox(counter, (self.seed, 0))[0] / 2**32).to(device)
