"""The 2048 features that FID is defined by: Inception v3 of 2015, as ported by torch-fidelity."""

import io
import pickle
from pathlib import Path
from urllib.error import URLError

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.metrics.features import Extractor

FILE = "weights-inception-2015-12-05-6726825d.pth"
URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{FILE}"


class InceptionFeatures(Extractor):
    """2048 features of images [B, 1 or 3, H, W] of any size, resized as TensorFlow 1 did. Reported as FID.

    Args:
        weights: torch-fidelity's weights; null looks in the cache of torch.hub, then downloads to it.
    """

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__("inception", num_features=2048)
        self.net = network(located(weights))
        self.freeze()

    @property
    def metric_name(self) -> str:
        """FID."""
        return "FID"

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 2048] of uint8 images; grey ones are repeated over the three channels."""
        return self.net(self.coloured(images, 3))[0]


def located(weights: str | Path | None) -> Path:
    """The file of weights: the one named, the cached one, or a download."""
    if weights is not None:
        if not Path(weights).is_file():
            raise missing(f"metric.extractor.weights={weights} does not exist", Path(weights))
        return Path(weights)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / FILE
    if not cached.is_file():
        download(cached)
    return cached


def download(path: Path) -> None:
    """Fetch the weights; a failed download leaves nothing behind."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(URL, str(path), progress=False)
    except (URLError, OSError) as error:
        raise missing(f"FID needs {FILE}, and it cannot be downloaded ({error})", path) from error


def missing(what: str, path: Path) -> UserError:
    """The remedies, in one line."""
    return UserError(
        f"{what}; get {URL} on another machine and put it at {path}, or say metric.extractor.weights=FILE, "
        "or choose features that need no download: metric=digits or metric=random_conv, reported as FD"
    )


def network(path: Path) -> nn.Module:
    """torch-fidelity's network. It would unpickle the file, so it is given a copy that was read safely."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    copy = io.BytesIO()
    try:
        torch.save(torch.load(path, map_location="cpu", weights_only=True), copy)
        copy.seek(0)
        return FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=copy)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError, AttributeError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        remedy = f"delete it or name another file in metric.extractor.weights; the right one is {URL}"
        raise UserError(f"{path} does not hold Inception's weights ({reason}); {remedy}") from error
