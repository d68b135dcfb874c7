"""Training of a small classifier as a feature extractor, and the file of its weights."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from consistency.errors import UserError
from consistency.files.checksum import content_sha256
from consistency.metrics.features.classifier import to_unit_range
from consistency.metrics.fidelity import between_halves
from consistency.watch import progress


def fit_classifier(
    body: nn.Module,
    head: nn.Linear,
    images: Tensor,
    labels: Tensor,
    augment: Callable[[Tensor], Tensor],
    epochs: int,
    batch: int = 64,
    smoothing: float = 0.0,
) -> None:
    """Train body and head with AdamW and a one-cycle learning rate. Both end frozen and in evaluation mode.

    Args:
        body: images in [-1, 1] -> features.
        head: features -> logits.
        images: uint8 [n, C, H, W].
        labels: long [n].
        augment: changes a batch of images in [-1, 1].
        epochs: passes over the data; the last batch of an epoch is left out if it is not full.
        batch: images per step.
        smoothing: label smoothing, in [0, 1].
    """
    net, steps = nn.Sequential(body, head).train(), len(images) // batch
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * steps)
    with progress("training", epochs * steps, 0) as advance:
        for epoch in range(epochs):
            for i, index in enumerate(torch.randperm(len(images)).split(batch)[:steps], 1):
                x, y = augment(to_unit_range(images[index])), labels[index]
                loss = F.cross_entropy(net(x), y, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(epoch * steps + i)
    net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Recipe:
    """The training of a convolutional classifier with ten classes that is shipped as a feature extractor.

    Args:
        script: name of its module in this folder, for the usage line.
        weights: the file that is shipped.
        make_body: makes the network images in [-1, 1] -> features.
        features: number of features.
        load: (root, whether for training) -> uint8 images [n, C, H, W], labels [n].
        augment: changes a batch of images in [-1, 1].
        epochs: passes over the training images.
        smoothing: label smoothing, in [0, 1].
        floor: Fréchet distance between random halves of the training images, after scaling.
    """

    script: str
    weights: Path
    make_body: Callable[[], nn.Module]
    features: int
    load: Callable[[Path, bool], tuple[Tensor, Tensor]]
    augment: Callable[[Tensor], Tensor]
    epochs: int
    smoothing: float = 0.0
    floor: float = 1.0

    def train(self, root: Path, path: Path | None = None, seed: int = 0, epochs: int | None = None) -> float:
        """Train on the images in `root`, write the weights, and return the accuracy on the test images.

        Args:
            root: folder of the data set.
            path: of the file; None for the shipped one.
            seed: of initial weights, order and augmentation.
            epochs: None for those of the recipe.
        """
        torch.manual_seed(seed)
        learned, held_out = self.load(root, True), self.load(root, False)
        body, head = self.make_body(), nn.Linear(self.features, 10)
        epochs = self.epochs if epochs is None else epochs
        body.to(memory_format=torch.channels_last)
        fit_classifier(body, head, *learned, self.augment, epochs, batch=128, smoothing=self.smoothing)
        right = accuracy(body, head, *held_out)
        body.to(memory_format=torch.contiguous_format)
        facts = {"accuracy": right, "seed": seed, "epochs": epochs}
        write_weights(path or self.weights, body, head, learned[0], self.floor, **facts)
        return right

    def main(self) -> None:
        """The command line: the folder of the data set is the only argument."""
        if len(sys.argv) != 2:
            sys.exit(f"usage: python -m consistency.metrics.training.{self.script} FOLDER")
        try:
            self.train(Path(sys.argv[1]))
        except UserError as error:
            sys.exit(f"error: {error}")


def mirror_half(x: Tensor) -> Tensor:
    """Mirror images [B, C, H, W] horizontally with probability 1/2."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def shift_images(x: Tensor, pixels: int) -> Tensor:
    """Shift images [B, C, H, W] at random by up to `pixels` along both axes; the edges are repeated."""
    size = x.shape[-1]
    rows, columns = torch.randint(0, 2 * pixels + 1, (2, len(x), 1)) + torch.arange(size)
    padded, index = F.pad(x, (pixels,) * 4, mode="replicate"), torch.arange(len(x))[:, None, None]
    return padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@torch.no_grad()
def run_batches(net: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Outputs of a network for uint8 images [n, C, H, W], computed in batches."""
    return torch.cat([net(to_unit_range(part)) for part in images.split(batch)])


def accuracy(body: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images that are classified correctly."""
    return (head(run_batches(body, images)).argmax(1) == labels).float().mean().item()


def write_weights(
    path: Path, body: nn.Module, head: nn.Module, images: Tensor, floor: float, **facts: float
) -> None:
    """Write the weights, and the factor for features that makes random halves of the images `floor` apart.

    Args:
        path: of the file.
        body: images in [-1, 1] -> features.
        head: features -> logits.
        images: uint8 [n, C, H, W].
        floor: Fréchet distance between random halves of the images, after scaling.
        **facts: numbers for the metadata of the file, such as the accuracy.
    """
    natural, _ = between_halves(run_batches(body, images), repeats=20)
    state = {f"body.{name}": value for name, value in body.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    state["scale"] = torch.tensor((floor / natural) ** 0.5)
    metadata = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in facts.items()}
    metadata |= {"natural_floor": f"{natural:.4f}", "sha256": content_sha256(state)}
    save_file(state, path, metadata)
    path.chmod(0o644)
    print(*(f"{k}={v}" for k, v in metadata.items()), f"scale={state['scale']:.4f}", path)
