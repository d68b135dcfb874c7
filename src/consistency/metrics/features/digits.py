"""Features of 8x8 digits: a small classifier trained on scikit-learn's digits, shipped with its weights.

`python -m consistency.metrics.training.digits` trains it again, in a quarter of a minute on one core.
"""

from pathlib import Path

from torch import nn

from consistency.metrics.features.classifier import Classifier

WEIGHTS = Path(__file__).with_name("digits.safetensors")


class DigitsFeatures(Classifier):
    """64 features of digits [B, 1, 8, 8], reported as FD(digits).

    Args:
        weights: a file written by `consistency.metrics.training.digits`.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        script = "python -m consistency.metrics.training.digits"
        super().__init__("digits", digits_body(), nn.Linear(64, 10), (1, 8, 8), Path(weights), script)


def digits_body() -> nn.Sequential:
    """Images [B, 1, 8, 8] in [-1, 1] -> 64 features."""
    return nn.Sequential(
        *conv_block(1, 32), *conv_block(32, 32), *conv_block(32, 48, stride=2), *conv_block(48, 64, stride=2),
        nn.Flatten(), nn.Linear(64 * 4, 64), nn.SiLU(),
    )  # fmt: skip


def conv_block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and activation."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.SiLU()]
