"""What an extractor sees of the data, computed once: kept on disk under the hash of all it depends on.

A file carries a checksum of its content and of its name, and one that does not agree is computed anew: a
flipped bit of a mean would move every distance. At 1.8 GB/s the check takes a quarter of a second for
50,000 features of Inception, 444 MB.
"""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from consistency.files.atomic import dispensable, replacing
from consistency.files.checksum import content_sha256
from consistency.metrics.features import Extractor, see
from consistency.metrics.fidelity import FeatureReference, Moments, between_halves, feature_moments
from consistency.metrics.processes import everybodys, from_first, rank, world
from consistency.process.notices import notice
from consistency.tensor import weights_sha256
from consistency.watch import in_pieces, tick

VERSION = 2  # of what is kept: raise it, and all is computed anew
BATCH = 500
HALVED = 5  # times that the data are halved for the floor
CHECKSUM = "sha256"  # of the metadata
KEPT = ("features", "mean", "cov", "floor")


def reference(images: Tensor, extractor: Extractor, cache: Path | None) -> FeatureReference:
    """Of uint8 images [n, C, H, W]: from the cache, or else computed, by all processes together, and kept.

    Args:
        images: all of the data.
        extractor: where it shall compute.
        cache: folder; None to keep nothing.
    """
    sha256 = weights_sha256({"": images})
    words = f"{VERSION} {sha256} {extractor.name} {extractor.resize} {extractor.weights_sha256}"
    name = hashlib.sha256(words.encode()).hexdigest()
    path = None if cache is None else cache / f"{name}.safetensors"
    found = from_first(lambda: read_reference(path))
    if found is None:
        found = compute_reference(images, extractor)
        if path is not None and rank() == 0:
            write_reference(path, found)
    spread = Moments(found["mean"], found["cov"])
    return FeatureReference(found["features"], spread, found["floor"].item(), sha256)


def compute_reference(images: Tensor, extractor: Extractor) -> dict[str, Tensor]:
    """Features, moments and floor."""
    features = extract_shared(images, extractor)
    with in_pieces("floor", HALVED):
        mean, cov = feature_moments(features)
        floor = torch.tensor(between_halves(features, HALVED)[0], dtype=torch.float64)
    return dict(zip(KEPT, (features, mean, cov, floor), strict=True))


def extract_shared(images: Tensor, extractor: Extractor) -> Tensor:
    """Features of all images, of which every process sees its share."""
    share = images.tensor_split(world())[rank()]
    parts: list[Tensor] = []
    with in_pieces("reference", len(share)):
        for some in share.split(BATCH):
            parts.append(see(some, extractor).features)
            tick(len(some))
    return torch.cat([part for of_process in everybodys(parts) for part in of_process])


def read_reference(path: Path | None) -> dict[str, Tensor] | None:
    """What is kept; None where nothing is, or, with a line that says so, what is damaged."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            found = {name: file.get_tensor(name) for name in KEPT}
            if (file.metadata() or {}).get(CHECKSUM) == reference_checksum(path, found):
                return found
    except (OSError, SafetensorError, ValueError, RuntimeError):
        pass
    notice(f"{path} is damaged: features of the data are computed anew")
    return None


def reference_checksum(path: Path, found: dict[str, Tensor]) -> str:
    """Of what is kept, and of the name that says what it depends on."""
    return content_sha256({"name": path.stem, "found": found})


def write_reference(path: Path, found: dict[str, Tensor]) -> None:
    """Keep it, whole or not at all; where that cannot be, it is computed again next time."""
    content = {name: value.contiguous() for name, value in found.items()}
    with dispensable(), replacing(path, shared=True) as temporary:
        save_file(content, temporary, {CHECKSUM: reference_checksum(path, content)})
