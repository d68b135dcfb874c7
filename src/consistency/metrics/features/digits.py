"""Features of 8x8 digits: a small classifier trained on scikit-learn's digits, shipped with its weights.

`python -m consistency.metrics.features.digits` trains it again, in a quarter of a minute on one core.

The scale of a classifier's features is an accident of its training: here the Fréchet distance between random
halves of the 1797 digits came out as 8.7. They are therefore multiplied by a fixed factor, 0.678, which is
stored with the weights and was chosen to make that distance 4.
"""

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from consistency.errors import UserError
from consistency.metrics.features import Extractor
from consistency.metrics.fidelity import between_halves

WEIGHTS = Path(__file__).with_name("digits.safetensors")
FLOOR = 4.0  # Fréchet distance between random halves of the digits, after scaling
EPOCHS, BATCH, HELD_OUT = 60, 64, 360


class DigitsFeatures(Extractor):
    """64 features of digits [B, 1, 8, 8], reported as FD(digits).

    Args:
        weights: a file written by this module's script.
    """

    def __init__(self, weights: str | Path = WEIGHTS) -> None:
        super().__init__("digits", num_features=64)
        self.body, self.head = body(), nn.Linear(64, 10)
        self.register_buffer("scale", torch.ones(()))
        self.load_state_dict(read(Path(weights), self.state_dict()))
        self.freeze()

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, 64] of uint8 images [B, 1, 8, 8]."""
        self.expect(images, 1, 8, 8)
        return self.get_buffer("scale") * self.body(normalise(images))

    def classify(self, images: Tensor) -> Tensor:
        """Probabilities [B, 10] of the ten digits."""
        self.expect(images, 1, 8, 8)
        return self.head(self.body(normalise(images))).softmax(1)


def body() -> nn.Sequential:
    """Images [B, 1, 8, 8] in [-1, 1] -> 64 features."""
    return nn.Sequential(
        *block(1, 32), *block(32, 32), *block(32, 48, stride=2), *block(48, 64, stride=2),
        nn.Flatten(), nn.Linear(64 * 4, 64), nn.SiLU(),
    )  # fmt: skip


def block(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    """Convolution and activation."""
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.SiLU()]


def normalise(images: Tensor) -> Tensor:
    """uint8 -> float32 in [-1, 1]."""
    return images.float() / 127.5 - 1


def read(path: Path, like: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a safetensors file, of the names and shapes of `like`."""
    remedy = "reinstall the package, or run: python -m consistency.metrics.features.digits"
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: cannot be read ({error}); {remedy}") from error
    if {k: v.shape for k, v in found.items()} != {k: v.shape for k, v in like.items()}:
        raise UserError(f"{path}: does not hold the weights of the digits classifier; {remedy}")
    return found


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1797 digits: uint8 images [1797, 1, 8, 8], and labels [1797]."""
    from sklearn.datasets import load_digits

    values, labels = load_digits(return_X_y=True)
    images = (torch.from_numpy(values) * 255 / 16).round().to(torch.uint8).reshape(-1, 1, 8, 8)
    return images, torch.from_numpy(labels).long()


def fit(images: Tensor, labels: Tensor, epochs: int = EPOCHS) -> nn.Sequential:
    """Body and head, trained with AdamW and a one-cycle learning rate on shifted, slightly noisy digits."""
    net = nn.Sequential(body(), nn.Linear(64, 10)).train()
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            loss = F.cross_entropy(net(augmented(normalise(images[batch]))), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def augmented(x: Tensor) -> Tensor:
    """Images moved by up to a pixel along both axes, edges repeated, plus noise of std up to 0.3."""
    rows, columns = torch.randint(0, 3, (2, len(x), 1)) + torch.arange(8)
    padded, index = F.pad(x, (1, 1, 1, 1), mode="replicate")[:, 0], torch.arange(len(x))[:, None, None]
    moved = padded[index, rows[:, :, None], columns[:, None, :]][:, None]
    return moved + 0.3 * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)


def train(path: Path = WEIGHTS, seed: int = 0, epochs: int = EPOCHS) -> float:
    """Train on all but 360 digits, write the weights, and return the accuracy on those."""
    torch.manual_seed(seed)
    images, labels = digits()
    order = torch.randperm(len(images))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    net = fit(images[rest], labels[rest], epochs)
    hits = net(normalise(images[held_out])).argmax(1) == labels[held_out]
    accuracy = hits.float().mean().item()
    natural, _ = between_halves(net[0](normalise(images)), repeats=20)
    body, head = net
    state = {f"body.{name}": value for name, value in body.state_dict().items()}
    state |= {f"head.{name}": value for name, value in head.state_dict().items()}
    state["scale"] = torch.tensor((FLOOR / natural) ** 0.5)
    about = {"accuracy": f"{accuracy:.4f}", "seed": seed, "epochs": epochs, "natural_floor": f"{natural:.4f}"}
    save_file(state, path, {key: str(value) for key, value in about.items()})
    path.chmod(0o644)
    print(*(f"{k}={v}" for k, v in about.items()), f"scale={state['scale']:.4f}", path)
    return accuracy


if __name__ == "__main__":
    train()
