"""1,797 scanned digits, 8x8, that come with scikit-learn: real images without a download."""

from typing import Any

import torch

from consistency.lit.data.loader import ArrayData
from consistency.lit.data.module import DataModule

MEAN, STD = 77.8537232192543, 95.85090755119825  # of a pixel over the whole set; the test computes them anew


class Digits(DataModule):
    """scikit-learn's `load_digits`, its 17 grey levels spread over 0..255; never flipped.

    Encoded to mean 0 and standard deviation 0.5, which the strokes in [-1, 1] are far from.

    Args:
        **run: batch_size, seed and the rest of `DataModule`.
    """

    def __init__(self, **run: Any) -> None:
        super().__init__(**{"offset": MEAN, "scale": STD / 0.5, **run})

    def load(self) -> ArrayData:
        """Read them from the installed package."""
        from sklearn.datasets import load_digits

        v, label = load_digits(return_X_y=True)
        u = (torch.as_tensor(v) * (255 / 16)).round().to(torch.uint8)
        return ArrayData(u.reshape(-1, 1, 8, 8), torch.as_tensor(label).long())
