"""scikit-learn's 1,797 scanned digits of 8x8 pixels: images that need no download."""

from typing import Unpack

import torch

from consistency.data.loader import ArrayData
from consistency.errors import UserError
from consistency.lit.data.module import DataArguments, DataModule
from consistency.truth.oracle import Mixture

ALL = 1797  # number of images
MEAN, STD = 77.8537232192543, 95.85090755119825  # of all pixels of the set; a test recomputes them


class Digits(DataModule):
    """scikit-learn's `load_digits`, its 17 grey levels spread over 0..255; never mirrored.

    Encoded to mean 0 and standard deviation 0.5; in [-1, 1] they would have neither.

    Args:
        images: number of first images to train on, of which ten have one of each class; None for all. The
            exact functions of the distribution of these images are then known.
        held_out: number of last images that are kept from training, for tests.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(
        self, images: int | None = None, held_out: int = 0, **arguments: Unpack[DataArguments]
    ) -> None:
        arguments.setdefault("offset", MEAN)
        arguments.setdefault("scale", STD / 0.5)
        super().__init__(**arguments)
        if not 0 <= held_out < ALL:
            raise UserError(f"data.held_out={held_out} must be at least 0 and less than {ALL}")
        self.held_out, rest = held_out, ALL - held_out
        if images is not None and not 1 <= images <= rest:
            raise UserError(f"data.images={images} must lie between 1 and {rest}, or be null for all")
        self.images = images

    def load(self) -> ArrayData:
        """Read the images from the installed package."""
        return self._read(slice(ALL - self.held_out if self.images is None else self.images))

    def load_held_out(self) -> ArrayData | None:
        """The last `held_out` images."""
        return self._read(slice(ALL - self.held_out, ALL)) if self.held_out else None

    def _read(self, rows: slice) -> ArrayData:
        from sklearn.datasets import load_digits

        v, label = load_digits(return_X_y=True)
        u = (torch.as_tensor(v) * (255 / 16)).round().to(torch.uint8)
        return ArrayData(u.reshape(-1, 1, 8, 8)[rows], torch.as_tensor(label).long()[rows])

    @property
    def density(self) -> Mixture | None:
        """The uniform distribution over the images; None for all of them, whose f would take minutes."""
        return None if self.images is None else Mixture.finite(self.codec.encode(self.data.x))
