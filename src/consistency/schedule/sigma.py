"""The noise levels of a run: one range, from which all parts take theirs."""

from dataclasses import dataclass

from consistency.errors import UserError, positive, within


@dataclass(frozen=True)
class Sigma:
    """`sigma` in configs/train.yaml, and what any part is given of it.

    Args:
        min: ε, the lowest, from 1e-6 on.
        max: the highest, up to 1e6.
        rho: exponent of Karras's spacing, from 0.1 to 1000.
        data: standard deviation of the data, from 1e-3 to 1e3.
    """

    min: float = 0.002
    max: float = 80.0
    rho: float = 7.0
    data: float = 0.5

    def __post_init__(self) -> None:
        positive("sigma", min=self.min, max=self.max, rho=self.rho, data=self.data)
        if not self.min < self.max:
            raise UserError(
                f"sigma.min={self.min} and sigma.max={self.max} must satisfy 0 < sigma.min < sigma.max"
            )
        within("sigma", 1e-6, 1e6, min=self.min, max=self.max)
        within("sigma", 0.1, 1000, rho=self.rho)
        within("sigma", 1e-3, 1e3, data=self.data)
