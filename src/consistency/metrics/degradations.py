"""Does a distance grow with damage, and how far do wrong choices of protocol move it?

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
from consistency.metrics.training.cifar10 import folder
from consistency.table import Table, tables_markdown
from consistency.watch import progress

BATCH = 2500  # images in float32 at a time
STAND_IN = 8.0  # noise of the images that stand for a model's, in grey levels
Change = Callable[[Tensor], Tensor]  # uint8 images [n, C, H, W] -> others


@dataclass(frozen=True)
class Damage:
    """A degradation at several severities.

    Args:
        name: with the unit of its severity.
        make: uint8 images [n, C, H, W], severity -> damaged ones.
        severities: the mildest first.
    """

    name: str
    make: Callable[[Tensor, float], Tensor]
    severities: Sequence[float]


def damages(labels: Tensor) -> list[Damage]:
    """What images of these labels [n] are put through; one class at least is never left out."""
    fewer = [n for n in (1, 3, 5, 8) if n <= labels.max()]
    return [
        Damage("Gaussian noise, grey levels", noisy, (4, 8, 16, 32)),
        Damage("Gaussian blur, pixels", blurred, (0.5, 0.75, 1, 2)),
        Damage("JPEG, 100 - quality", compressed, (40, 50, 60, 70, 80, 90, 95)),
        Damage("grey square, pixels wide", occluded, (4, 8, 12, 16)),
        Damage("classes left out", partial(drop_classes, labels=labels), fewer),
    ]


def noisy(images: Tensor, std: float, seed: int = 0) -> Tensor:
    """Gaussian noise of so many grey levels."""
    z = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return rounded(images + std * z)


def blurred(images: Tensor, std: float) -> Tensor:
    """Gaussian blur of so many pixels."""
    from torchvision.transforms.functional import gaussian_blur

    size = 2 * math.ceil(3 * std) + 1
    return torch.cat([gaussian_blur(part, [size, size], [std, std]) for part in images.split(BATCH)])


def compressed(images: Tensor, severity: float) -> Tensor:
    """Through a JPEG file of quality 100 - severity."""
    return torch.stack([through_jpeg(image, round(100 - severity)) for image in images])


def through_jpeg(image: Tensor, quality: int) -> Tensor:
    """One uint8 image [3, H, W]."""
    file = io.BytesIO()
    Image.fromarray(image.movedim(0, -1).numpy()).save(file, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(file, formats=["JPEG"]))).movedim(-1, 0)


def occluded(images: Tensor, side: float, seed: int = 0) -> Tensor:
    """A grey square of so many pixels, somewhere inside each."""
    size = images.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(0, size - round(side) + 1, (2, len(images), 1), generator=generator)
    place = torch.arange(size)
    rows, columns = (place >= first) & (place < first + round(side))
    return torch.where((rows[:, :, None] & columns[:, None, :])[:, None], torch.tensor(128).byte(), images)


def drop_classes(images: Tensor, classes: float, labels: Tensor) -> Tensor:
    """Without those of the last so many classes: what a model that drops modes makes, though fewer."""
    return images[labels <= labels.max() - round(classes)]


def rounded(x: Tensor) -> Tensor:
    """Grey levels -> uint8, to the nearest."""
    return truncated(x + 0.5)


def truncated(x: Tensor) -> Tensor:
    """Grey levels -> uint8 by leaving out what follows the point: what truncate(127.5 (x + 1)) does."""
    return x.clamp(0, 255).byte()


def there_and_back(images: Tensor) -> Tensor:
    """To [-1, 1] in float32, and truncated: of uint8 images, some levels do not come back."""
    return truncated((images / 127.5 - 1 + 1) * 127.5)


def halve_images(images: Tensor, antialias: bool) -> Tensor:
    """Resized to half the resolution and back, bilinearly."""
    low = F.interpolate(images.float(), scale_factor=0.5, mode="bilinear", antialias=antialias)
    return rounded(F.interpolate(low, size=images.shape[-2:], mode="bilinear"))


def stand_in(finish: Change) -> Change:
    """Noisy images in place of a model's samples, the same at every use, made uint8 by `finish`."""
    generator = torch.Generator().manual_seed(0)
    return lambda images: finish(images + STAND_IN * torch.randn(images.shape, generator=generator))


def seen(images: Tensor, extractor: Extractor, change: Change = torch.clone) -> Tensor:
    """Features [n, d] of changed images, a part at a time."""
    return torch.cat([features(change(part), extractor) for part in images.split(BATCH)])


def rises(values: Sequence[float]) -> str:
    """Whether each is larger than the one before it."""
    return "yes" if all(a < b for a, b in pairwise(values)) else "no"


def ranking(test: Tensor, labels: Tensor, real: Mapping[Extractor, Tensor]) -> Iterator[list[str]]:
    """A line per degradation: severities, and for each extractor the distances and whether they rise.

    Args:
        test: uint8 images [n, C, H, W] that are damaged.
        labels: of them, [n].
        real: features [m, d] of the images that they are compared with, by extractor.
    """
    yield ["", "severity", *(cell for e in real for cell in (e.metric_name, "rises"))]
    floor = [frechet(seen(test, e), x) for e, x in real.items()]
    yield ["none", "", *(cell for value in floor for cell in (f"{value:.3g}", ""))]
    for damage in damages(labels):
        made = [damage.make(test, severity) for severity in damage.severities]
        line = [damage.name, ", ".join(f"{severity:g}" for severity in damage.severities)]
        for (extractor, x), least in zip(real.items(), floor, strict=True):
            values = [frechet(seen(images, extractor), x) for images in made]
            line += [", ".join(f"{value:.3g}" for value in values), rises([least, *values])]
        yield line


def choices(train: Tensor, test: Tensor, extractor: Extractor, real: Tensor) -> dict[str, float]:
    """Distances of the stand-in from the data as they should be, and as they come out otherwise.

    Args:
        train: uint8 images [n, C, H, W], which the stand-in was made from.
        test: others.
        extractor: sees them.
        real: features [n, d] of the training images.
    """
    see = partial(seen, extractor=extractor)
    made = see(train, change=stand_in(rounded))
    order = torch.randperm(len(made), generator=torch.Generator().manual_seed(0))
    fewer = {f"{n:,} samples": frechet(made[order[:n]], real) for n in (len(made) // k for k in (5, 10, 25))}
    resized = {
        how: frechet(made, see(train, change=partial(halve_images, antialias=antialias)))
        for how, antialias in (("with", True), ("without", False))
    }
    again = frechet(see(train, change=there_and_back), real)
    return {
        f"as it should be, {len(made):,} samples": frechet(made, real),
        "samples truncated": frechet(see(train, change=stand_in(truncated)), real),
        **fewer,
        f"{len(test):,} test images as the reference": frechet(made, see(test)),
        **{f"reference at half the resolution and back, {how} antialias": v for how, v in resized.items()},
        "training images truncated from [-1, 1], against themselves": again,
    }


def report_degradations(root: Path, extractors: Sequence[Extractor]) -> str:
    """Both tables in Markdown, for images ROOT/{train,test}/CLASS/FILE of 32x32 pixels."""
    (train, _), (test, labels) = (folder(root / split) for split in ("train", "test"))
    lines, moved = list[list[str]](), list[dict[str, float]]()
    with progress("tables", 2 + len(damages(labels)) + len(extractors), 0) as advance:
        real = {extractor: seen(train, extractor) for extractor in extractors}
        for line in ranking(test, labels, real):
            lines.append(line)
            advance(len(lines))
        for extractor in extractors:
            moved.append(choices(train, test, extractor, real[extractor]))
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
