"""The features of the data, computed once and kept on disk under the hash of all that they depend on.

A file has a checksum of its content and its name. If it is wrong, the features are computed again, because a
flipped bit in a mean would change every distance. At 1.8 GB/s the check takes a quarter of a second for
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

VERSION = 2  # of the content of the files; files of other versions are not used
BATCH = 500
HALVED = 5  # random splits into halves for the floor
CHECKSUM = "sha256"  # key in the metadata
KEPT = ("features", "mean", "cov", "floor")


def reference(images: Tensor, extractor: Extractor, cache: Path | None) -> FeatureReference:
    """The features of the data, read from the cache, else computed by all processes together and cached.

    Args:
        images: all of the data, uint8 [n, C, H, W].
        extractor: on the device where it computes.
        cache: folder; None to keep nothing.
    """
    sha256 = weights_sha256({"": images})
    key = f"{VERSION} {sha256} {extractor.name} {extractor.resize} {extractor.weights_sha256}"
    name = hashlib.sha256(key.encode()).hexdigest()
    path = None if cache is None else cache / f"{name}.safetensors"
    found = from_first(lambda: read_reference(path))
    if found is None:
        found = compute_reference(images, extractor)
        if path is not None and rank() == 0:
            write_reference(path, found)
    spread = Moments(found["mean"], found["cov"])
    return FeatureReference(found["features"], spread, found["floor"].item(), sha256)


def compute_reference(images: Tensor, extractor: Extractor) -> dict[str, Tensor]:
    """Features, moments and floor, by the names in `KEPT`."""
    features = extract_shared(images, extractor)
    with in_pieces("floor", HALVED):
        mean, cov = feature_moments(features)
        floor = torch.tensor(between_halves(features, HALVED)[0], dtype=torch.float64)
    return dict(zip(KEPT, (features, mean, cov, floor), strict=True))


def extract_shared(images: Tensor, extractor: Extractor) -> Tensor:
    """Features of all images; each process computes a share."""
    share = images.tensor_split(world())[rank()]
    parts: list[Tensor] = []
    with in_pieces("reference", len(share)):
        for some in share.split(BATCH):
            parts.append(see(some, extractor).features)
            tick(len(some))
    return torch.cat([part for of_process in everybodys(parts) for part in of_process])


def read_reference(path: Path | None) -> dict[str, Tensor] | None:
    """The content of a cache file; None if there is none, or, with a notice, if it is damaged."""
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
    """Checksum of a file's content and of its name, which is the hash of all that it depends on."""
    return content_sha256({"name": path.stem, "found": found})


def write_reference(path: Path, found: dict[str, Tensor]) -> None:
    """Write a cache file atomically; a failure to write is ignored."""
    content = {name: value.contiguous() for name, value in found.items()}
    with dispensable(), replacing(path, shared=True) as temporary:
        save_file(content, temporary, {CHECKSUM: reference_checksum(path, content)})
