"""Tests of the Fréchet distance: does it grow with damage, and how far do errors of the protocol move it?

`python -m consistency.metrics.degradations FOLDER` prints a table for each question, in features that need no
download. FOLDER holds train/CLASS/ and test/CLASS/ with thousands of image files of 32x32 pixels.
"""

import io
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from consistency.errors import UserError
from consistency.metrics.features import Extractor, features
from consistency.metrics.features.cifar10 import Cifar10Features
from consistency.metrics.features.random import RandomConvFeatures
from consistency.metrics.fidelity import frechet
from consistency.metrics.training.cifar10 import load_folder
from consistency.table import Table, tables_markdown
from consistency.watch import progress

BATCH = 2500  # images in float32 at a time
STAND_IN = (
    8.0  # standard deviation, in grey levels, of the noise that turns images into stand-ins for samples
)
Change = Callable[[Tensor], Tensor]  # uint8 images [n, C, H, W] -> uint8 images


@dataclass(frozen=True)
class Damage:
    """A degradation at several severities.

    Args:
        name: and unit of the severity.
        make: uint8 images [n, C, H, W], severity -> damaged ones.
        severities: the mildest first.
    """

    name: str
    make: Callable[[Tensor, float], Tensor]
    severities: Sequence[float]


def damages(labels: Tensor) -> list[Damage]:
    """The degradations for images with these labels [n]; at least one class always remains."""
    fewer = [n for n in (1, 3, 5, 8) if n <= labels.max()]
    return [
        Damage("Gaussian noise, grey levels", add_noise, (4, 8, 16, 32)),
        Damage("Gaussian blur, pixels", blur_images, (0.5, 0.75, 1, 2)),
        Damage("JPEG, 100 - quality", compress_images, (40, 50, 60, 70, 80, 90, 95)),
        Damage("grey square, pixels wide", hide_square, (4, 8, 12, 16)),
        Damage("classes left out", partial(drop_classes, labels=labels), fewer),
    ]


def add_noise(images: Tensor, std: float, seed: int = 0) -> Tensor:
    """Add Gaussian noise with a standard deviation in grey levels."""
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return round_levels(images + std * z)


def blur_images(images: Tensor, std: float) -> Tensor:
    """Gaussian blur with a standard deviation in pixels."""
    from torchvision.transforms.functional import gaussian_blur

    size = 2 * math.ceil(3 * std) + 1
    return torch.cat([gaussian_blur(part, [size, size], [std, std]) for part in images.split(BATCH)])


def compress_images(images: Tensor, severity: float) -> Tensor:
    """Compress each image as JPEG with quality 100 - severity."""
    return torch.stack([compress_image(image, round(100 - severity)) for image in images])


def compress_image(image: Tensor, quality: int) -> Tensor:
    """Compress one uint8 image [3, H, W] as JPEG with this quality, in 1 to 100."""
    file = io.BytesIO()
    Image.fromarray(image.movedim(0, -1).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file, formats=["JPEG"]))).movedim(-1, 0)


def hide_square(images: Tensor, side: float, seed: int = 0) -> Tensor:
    """Cover a square of `side` pixels at a random place of each image with grey."""
    size = images.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, size - round(side) + 1, (2, len(images), 1), generator=generator)
    place = torch.arange(size)
    rows, columns = (place >= first) & (place < first + round(side))
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], torch.tensor(128).byte(), images)


def drop_classes(images: Tensor, classes: float, labels: Tensor) -> Tensor:
    """The images without the last `classes` classes, as from a model that drops modes."""
    return images[labels <= labels.max() - round(classes)]


def round_levels(x: Tensor) -> Tensor:
    """Grey levels in floating point -> the nearest uint8."""
    return truncate_levels(x + 0.5)


def truncate_levels(x: Tensor) -> Tensor:
    """Grey levels in floating point -> uint8, rounded down: the error of truncate(127.5 (x + 1))."""
    return x.clamp(0, 255).byte()


def truncate_twice(images: Tensor) -> Tensor:
    """Convert uint8 images to [-1, 1] in float32 and back by truncation, which changes some grey levels."""
    return truncate_levels((images / 127.5 - 1 + 1) * 127.5)


def halve_images(images: Tensor, antialias: bool) -> Tensor:
    """Resize images to half the resolution and back, bilinearly."""
    low = F.interpolate(images.float(), scale_factor=0.5, mode="bilinear", antialias=antialias)
    return round_levels(F.interpolate(low, size=images.shape[-2:], mode="bilinear"))


def stand_in_samples(finish: Change) -> Change:
    """A function from images to stand-ins for samples: seeded noise is added, `finish` makes uint8."""
    generator = torch.Generator().manual_seed(0)
    return lambda images: finish(images + STAND_IN * torch.randn(images.shape, generator=generator))


def extract_features(images: Tensor, extractor: Extractor, change: Change = torch.clone) -> Tensor:
    """Features [n, d] of changed images, computed in parts."""
    return torch.cat([features(change(part), extractor) for part in images.split(BATCH)])


def is_rising(values: Sequence[float]) -> str:
    """The word yes if each value is larger than the one before it, else no."""
    return "yes" if all(a < b for a, b in pairwise(values)) else "no"


def degradation_rows(test: Tensor, labels: Tensor, real: Mapping[Extractor, Tensor]) -> Iterator[list[str]]:
    """The header, a row without damage, and a row per degradation: severities, distances, whether they rise.

    Args:
        test: uint8 images [n, C, H, W] to damage.
        labels: of these images [n].
        real: features [m, d] of the images to compare with, by extractor.
    """
    yield ["", "severity", *(cell for e in real for cell in (e.metric_name, "rises"))]
    floor = [frechet(extract_features(test, e), x) for e, x in real.items()]
    yield ["none", "", *(cell for value in floor for cell in (f"{value:.3g}", ""))]
    for damage in damages(labels):
        made = [damage.make(test, severity) for severity in damage.severities]
        line = [damage.name, ", ".join(f"{severity:g}" for severity in damage.severities)]
        for (extractor, x), least in zip(real.items(), floor, strict=True):
            values = [frechet(extract_features(images, extractor), x) for images in made]
            line += [", ".join(f"{value:.3g}" for value in values), is_rising([least, *values])]
        yield line


def protocol_distances(train: Tensor, test: Tensor, extractor: Extractor, real: Tensor) -> dict[str, float]:
    """Distances of stand-ins for samples from the data: by the right protocol, and by each wrong one.

    Args:
        train: uint8 images [n, C, H, W], from which the stand-ins are made.
        test: other uint8 images [m, C, H, W].
        extractor: images -> features.
        real: features [n, d] of the training images.
    """
    see = partial(extract_features, extractor=extractor)
    made = see(train, change=stand_in_samples(round_levels))
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    fewer = {f"{n:,} samples": frechet(made[order[:n]], real) for n in (len(made) // k for k in (5, 10, 25))}
    resized = {
        how: frechet(made, see(train, change=partial(halve_images, antialias=antialias)))
        for how, antialias in (("with", True), ("without", False))
    }
    again = frechet(see(train, change=truncate_twice), real)
    return {
        f"as it should be, {len(made):,} samples": frechet(made, real),
        "samples truncated": frechet(see(train, change=stand_in_samples(truncate_levels)), real),
        **fewer,
        f"{len(test):,} test images as the reference": frechet(made, see(test)),
        **{f"reference at half the resolution and back, {how} antialias": v for how, v in resized.items()},
        "training images truncated from [-1, 1], against themselves": again,
    }


def report_degradations(root: Path, extractors: Sequence[Extractor]) -> str:
    """Both tables in Markdown, for images ROOT/{train,test}/CLASS/FILE of 32x32 pixels."""
    (train, _), (test, labels) = (load_folder(root / split) for split in ("train", "test"))
    lines, moved = list[list[str]](), list[dict[str, float]]()
    with progress("tables", 2 + len(damages(labels)) + len(extractors), 0) as advance:
        real = {extractor: extract_features(train, extractor) for extractor in extractors}
        for line in degradation_rows(test, labels, real):
            lines.append(line)
            advance(len(lines))
        for extractor in extractors:
            moved.append(protocol_distances(train, test, extractor, real[extractor]))
            advance(len(lines) + len(moved))
    rows = [[name, *(f"{found[name]:.4g}" for found in moved)] for name in moved[0]]
    head, *rest = lines
    return tables_markdown([Table(head, rest), Table(["", *(e.metric_name for e in extractors)], rows)])


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m consistency.metrics.degradations FOLDER")
    try:
        print(report_degradations(Path(sys.argv[1]), [Cifar10Features(), RandomConvFeatures()]))
    except UserError as error:
        sys.exit(f"error: {error}")
