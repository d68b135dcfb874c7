"""Data sets of points in the plane, with a standard deviation of 0.5 per coordinate."""

from typing import Unpack

import torch

from consistency.codec.points import Points
from consistency.data.loader import ArrayData
from consistency.errors import at_least, within
from consistency.lit.data.module import DataArguments, DataModule
from consistency.process.capacity import check_memory
from consistency.truth.oracle import Mixture

SEED = 0  # of the points, which are the same for every run; data.seed determines their order


class Ring(DataModule):
    """A mixture of Gaussians on a ring, whose denoiser and consistency function are known exactly.

    Args:
        modes: number of Gaussians.
        std: of each, in [0, 0.5).
        points: number of points, drawn once.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(
        self, modes: int = 8, std: float = 0.1, points: int = 65536, **arguments: Unpack[DataArguments]
    ) -> None:
        super().__init__(**arguments)
        within("data", 1, 2**16, modes=modes)
        check_points(points)
        self.modes, self.std, self.points = modes, std, points

    def load(self) -> ArrayData:
        """Draw the points."""
        return ArrayData(self.mixture.sample(self.points, torch.Generator().manual_seed(SEED)).float())

    @property
    def mixture(self) -> Mixture:
        """The distribution of the points."""
        return Mixture.ring(self.modes, self.std)

    @property
    def density(self) -> Mixture | None:
        """The mixture; None with another codec than `Points`."""
        return self.mixture if self.codec == Points() else None


class Moons(DataModule):
    """scikit-learn's two half circles, standardised; each of them is a class.

    Args:
        noise: standard deviation across a moon of radius 1.
        points: number of points, drawn once.
        **arguments: of `DataModule`: batch_size, seed and the rest.
    """

    def __init__(
        self,
        noise: float = 0.05,
        points: int = 65536,
        **arguments: Unpack[DataArguments],
    ) -> None:
        super().__init__(**arguments)
        within("data", 0, 1000, noise=noise)
        check_points(points)
        self.noise, self.points = noise, points

    def load(self) -> ArrayData:
        """Draw the points."""
        from sklearn.datasets import make_moons

        x, label = make_moons(self.points, noise=self.noise, random_state=SEED)
        x = torch.as_tensor(x)
        standard = 0.5 * (x - x.mean(0)) / x.std(0, correction=0)
        return ArrayData(standard.float(), torch.as_tensor(label).long())


def check_points(points: int) -> None:
    """Refuse fewer than two points, or more than fit into memory while they are drawn."""
    at_least("data", 2, points=points)
    check_memory(f"data.points={points}", 64 * points)  # two coordinates of float64, four times
