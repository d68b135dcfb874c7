"""The Fréchet distance between Gaussians in numpy and scipy, by the matrix square root."""

import numpy as np
from scipy.linalg import sqrtm


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """‖μ_a - μ_b‖² + tr(Σ_a + Σ_b - 2 √(Σ_a Σ_b)) of features [n, d] and [m, d], float64."""
    product = np.cov(a, rowvar=False) @ np.cov(b, rowvar=False)
    shift = np.square(a.mean(0) - b.mean(0)).sum()
    spread = np.var(a, axis=0, ddof=1).sum() + np.var(b, axis=0, ddof=1).sum()
    return float(shift + spread - 2 * np.trace(sqrtm(product)).real)
