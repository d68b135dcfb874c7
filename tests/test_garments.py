"""The classifier of 28x28 garments: trained again from files, and as it is shipped."""

import numpy as np
import pytest
import torch
from safetensors import safe_open

from consistency.errors import UserError
from consistency.metrics.features import features
from consistency.metrics.features.fashion import WEIGHTS, FashionFeatures
from consistency.metrics.fidelity import between_halves, frechet
from consistency.metrics.training import fashion
from tests.test_data import idx


def garments(n, seed):
    """Images of ten classes, each with a bright bar at a height of its own."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 10, n, dtype=np.uint8)
    images = generator.integers(0, 80, (n, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label + 4 : 2 * label + 7] += 150
    return images, labels


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("garments")
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n, seed in (("train", 256, 0), ("t10k", 50, 1)):
        images, labels = garments(n, seed)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(images))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return root


def test_it_is_trained_from_files_and_kept(root, tmp_path):
    path = tmp_path / "own.safetensors"
    right = fashion.RECIPE.train(root, path, epochs=1)
    images, labels = fashion.load_garments(root, train=False)
    kept = FashionFeatures(path)
    assert (kept.classify(images).argmax(1) == labels).float().mean().item() == pytest.approx(right)
    real = features(fashion.load_garments(root, train=True)[0], kept)
    assert between_halves(real, repeats=20)[0] == pytest.approx(fashion.RECIPE.floor, rel=1e-3)


def test_it_is_shipped():
    extractor = FashionFeatures()
    assert extractor.metric_name == "FD(fashion)"
    with safe_open(WEIGHTS, "pt") as file:
        assert float(file.metadata()["accuracy"]) > 0.9
    images = torch.from_numpy(garments(64, 2)[0])[:, None]
    seen = features(images, extractor)
    assert seen.shape == (64, 64)
    assert frechet(seen, features(255 - images, extractor)) > 10 * frechet(seen[::2], seen[1::2]) > 0


def test_other_images_and_other_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="28"):
        FashionFeatures()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(UserError, match="FashionMNIST/raw"):
        fashion.load_garments(tmp_path, train=True)
