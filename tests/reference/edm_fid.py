"""FID as EDM's protocol (2206.00364, `fid.py`) has it, in numpy and scipy: rounding, moments, distance."""

from collections.abc import Callable

import numpy as np

from tests.reference.frechet import frechet


def rounded(x: np.ndarray) -> np.ndarray:
    """Images in [-1, 1] -> uint8: x 127.5 + 128, clipped, truncated."""
    return np.clip(x * 127.5 + 128, 0, 255).astype(np.uint8)


def truncated(x: np.ndarray) -> np.ndarray:
    """The common mistake: (x + 1) 127.5, clipped, truncated."""
    return np.clip((x + 1) * 127.5, 0, 255).astype(np.uint8)


def fid(x: np.ndarray, real: np.ndarray, see: Callable[[np.ndarray], np.ndarray], batch: int = 64) -> float:
    """Of samples [n, C, H, W] in [-1, 1] against uint8 images [m, C, H, W], by features of uint8 images."""
    parts = [[see(u[i : i + batch]) for i in range(0, len(u), batch)] for u in (rounded(x), real)]
    a, b = (np.concatenate(part).astype(np.float64) for part in parts)
    return frechet(a, b)
