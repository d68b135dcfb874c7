"""Training of a small classifier, and the file of its weights."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Train both with AdamW and a one-cycle learning rate; frozen and in evaluation mode afterwards.

    Args:
        body: images in [-1, 1] -> features.
        head: features -> logits.
        images: uint8 [n, C, H, W].
        labels: long [n].
        augment: changes a batch of images in [-1, 1].
        epochs: passes over the data; what is left of an epoch behind its last full batch is left out.
        batch: images of a step.
        smoothing: of the labels.
    """
    net, each = nn.Sequential(body, head).train(), len(images) // batch
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=epochs * each)
    with progress("training", epochs * each, 0) as advance:
        for epoch in range(epochs):
            for i, some in enumerate(torch.randperm(len(images)).split(batch)[:each], 1):
                x, y = augment(to_unit_range(images[some])), labels[some]
                loss = F.cross_entropy(net(x), y, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                advance(epoch * each + i)
    net.eval().requires_grad_(False)


def train_classifier(
    path: Path,
    body: nn.Module,
    head: nn.Linear,
    learned: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    augment: Callable[[Tensor], Tensor],
    floor: float,
    seed: int,
    epochs: int,
    smoothing: float = 0.0,
) -> float:
    """Train a convolutional classifier, write its weights, and return its accuracy on other images.

    Args:
        path: of the file.
        body: as in `fit_classifier`, with other arguments of that name.
        head: the same.
        learned: uint8 images [n, C, H, W] and labels [n].
        held_out: the same of images that are not learned.
        augment: see `fit_classifier`.
        floor: see `write_weights`.
        seed: that was set, for the file.
        epochs: see `fit_classifier`.
        smoothing: see `fit_classifier`.
    """
    body.to(memory_format=torch.channels_last)
    fit_classifier(body, head, *learned, augment, epochs, batch=128, smoothing=smoothing)
    right = accuracy(body, head, *held_out)
    body.to(memory_format=torch.contiguous_format)
    write_weights(path, body, head, learned[0], floor, accuracy=right, seed=seed, epochs=epochs)
    return right


def mirrored(x: Tensor) -> Tensor:
    """Images [B, C, H, W], half of them at random from left to right."""
    return torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(-1), x)


def shifted(x: Tensor, pixels: int) -> Tensor:
    """Images [B, C, H, W] moved at random by up to so many pixels along both axes, edges repeated."""
    size = x.shape[-1]
    rows, columns = torch.randint(0, 2 * pixels + 1, (2, len(x), 1)) + torch.arange(size)
    padded, index = F.pad(x, (pixels,) * 4, mode="replicate"), torch.arange(len(x))[:, None, None]
    return padded.movedim(1, -1)[index, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


@torch.no_grad()
def seen_by(net: nn.Module, images: Tensor, batch: int = 500) -> Tensor:
    """Outputs of a network for uint8 images, batch by batch."""
    return torch.cat([net(to_unit_range(part)) for part in images.split(batch)])


def accuracy(body: nn.Module, head: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Share of images whose class is found."""
    return (head(seen_by(body, images)).argmax(1) == labels).float().mean().item()


def write_weights(
    path: Path, body: nn.Module, head: nn.Module, images: Tensor, floor: float, **about: float
) -> None:
    """Write the weights, with the factor that puts random halves of the images `floor` apart.

    Args:
        path: of the file.
        body: trained.
        head: trained.
        images: uint8 [n, C, H, W].
        floor: Fréchet distance between random halves of them.
        **about: what is written into the file for people.
    """
    natural, _ = between_halves(seen_by(body, images), repeats=20)
    state = {f"body.{name}": value for name, value in body.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    state["scale"] = torch.tensor((floor / natural) ** 0.5)
    told = {k: f"{v:.4f}" if isinstance(v, float) else str(v) for k, v in about.items()}
    told |= {"natural_floor": f"{natural:.4f}", "sha256": content_sha256(state)}
    save_file(state, path, told)
    path.chmod(0o644)
    print(*(f"{k}={v}" for k, v in told.items()), f"scale={state['scale']:.4f}", path)
