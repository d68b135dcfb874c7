"""The 2048 features in the definition of FID: Inception v3 of 2015, as ported by torch-fidelity."""

import io
import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.pickles import load_tensors
from consistency.metrics.features import Extractor, Seen
from consistency.metrics.published import Published
from consistency.tensor import all_finite

INCEPTION = Published(
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    user="FID",
    option="metric.extractor.weights",
    instead="features that need no download, reported as FD: metric=digits, cifar10_small or random_conv",
)
DAMAGE = (RuntimeError, OSError, EOFError, ValueError, LookupError, AttributeError, TypeError)
LAYERS = ["2048", "logits_unbiased"]


class InceptionFeatures(Extractor):
    """2048 features, and logits, of images [B, 1 or 3, H, W] of any size. Reported as FID.

    The logits are those of the papers' Inception Score: without the bias of the last layer.

    Args:
        weights: file of torch-fidelity's weights; null uses the cache of torch.hub, with a download if
            necessary.
    """

    resize = "299x299, bilinear as in TensorFlow 1, no antialias"

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__("inception", num_features=2048)
        self.net = load_inception(INCEPTION.locate(weights))
        self.freeze()

    def named(self, general: str, inception: str) -> str:
        """The name in the papers."""
        return inception

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of uint8 images; grey ones are repeated over the three channels."""
        return self.see(images).features

    def see(self, images: Tensor) -> Seen:
        """Features and logits [B, 1008]."""
        return Seen(*self.net(self.coloured(images, 3)))


def load_inception(path: Path) -> nn.Module:
    """torch-fidelity's network, loaded from a copy that was read safely: it would unpickle the file itself.

    Raises:
        UserError: the file does not contain the weights.
    """
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = io.BytesIO()
    try:
        weights = load_tensors(path)
        bad = [name for name, value in weights.items() if value.is_floating_point() and not all_finite(value)]
        if bad:
            raise RuntimeError(f"{bad[0]} holds NaN or infinity")
        torch.save(weights, copy)
        copy.seek(0)
        return FeatureExtractorInceptionV3("inception", LAYERS, feature_extractor_weights_path=copy)
    except (pickle.UnpicklingError, *DAMAGE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = (
            f"delete it or name another file in metric.extractor.weights; the right one is {INCEPTION.url}"
        )
        raise UserError(f"{path} does not hold Inception's weights ({reason}); {remedy}") from error
