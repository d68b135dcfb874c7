"""Small classifiers, shipped with their weights, as feature extractors that need no download.

The scale of a classifier's features depends on its training. They are therefore multiplied by a fixed factor,
stored with the weights, which makes the distance between random halves of the data a round number.

The hash of a file's tensors is checked: against `SHIPPED` for files of this folder, else against the one in
the file.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.checksum import content_sha256
from consistency.metrics.features import Extractor, Seen

HERE = Path(__file__).parent
SHIPPED = {  # hashes of the tensors in the files of this folder; update them after training again
    "cifar10.safetensors": "310da9b29d57db4371683feea09c2751bae758d23151610044a40293dea10d77",
    "digits.safetensors": "343aa2f1d20682213e251d27edd4ffc3d80911df74d05e2f96ff2b0f7530e9f6",
    "fashion.safetensors": "2fa324d0f6dca8bc67b9e5635fa84c694a421e536299a7f5cb2b8e038575f316",
}


class Classifier(Extractor):
    """Features [B, d] before the last layer of a classifier, and its logits.

    Args:
        name: of the features, in the names of distances.
        body: images in [-1, 1] -> features [B, d].
        head: features -> logits.
        shape: of an image, (C, H, W).
        weights: a file written by `consistency.metrics.training.classifier.write_weights`.
        script: the command that writes the file again, for messages.
    """

    def __init__(
        self, name: str, body: nn.Module, head: nn.Linear, shape: tuple[int, ...], weights: Path, script: str
    ) -> None:
        super().__init__(name, num_features=head.in_features)
        self.body, self.head, self.shape = body, head, shape
        self.register_buffer("scale", torch.ones(()))
        self.load_state_dict(read_features(weights, self.state_dict(), f"the {name} classifier", script))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, d] of uint8 images [B, *shape]."""
        return self.see(images).features

    def see(self, images: Tensor) -> Seen:
        """Features and logits of uint8 images [B, *shape]."""
        self.expect(images, *self.shape)
        features = self.body(to_unit_range(images))
        return Seen(self.get_buffer("scale") * features, self.head(features))

    def classify(self, images: Tensor) -> Tensor:
        """Probabilities [B, classes]."""
        logits = self.see(images).logits
        assert logits is not None
        return logits.softmax(1)


class Residual(nn.Module):
    """x + block(x), with a block of `conv_norm_block`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = conv_norm_block(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The same shape."""
        return x + self.inner(x)


def conv_norm_block(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution, normalisation, activation."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def read_features(path: Path, like: dict[str, Tensor], what: str, script: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, with the names and shapes of `like`.

    Args:
        path: of the file.
        like: tensors of the network, by name.
        what: the network, for messages.
        script: the command that writes the file again, for messages.

    Raises:
        UserError: the file cannot be read, has other tensors, or a wrong hash.
    """
    remedy = f"reinstall the package, or run: {script}"
    try:
        with safe_open(path, "pt") as file:
            recorded = (file.metadata() or {}).get("sha256")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in like.items()}:
        raise UserError(f"{path}: does not hold the weights of {what}; {remedy}")
    if content_sha256(found) != (SHIPPED.get(path.name) if path.resolve().parent == HERE else recorded):
        raise UserError(f"{path}: is damaged, or has no sha256 of its tensors; {remedy}")
    return found
