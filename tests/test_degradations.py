"""The classifier of 32x32 images, and what distances make of damage: at the size of a test."""

import io

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from consistency.errors import UserError
from consistency.metrics import degradations
from consistency.metrics.degradations import (
    add_noise,
    blur_images,
    compress_images,
    damages,
    drop_classes,
    halve_images,
    hide_square,
    is_rising,
    report_degradations,
    round_levels,
    stand_in_samples,
    truncate_levels,
    truncate_twice,
)
from consistency.metrics.features import features
from consistency.metrics.features.cifar10 import WEIGHTS, Cifar10Features
from consistency.metrics.features.random import RandomConvFeatures
from consistency.metrics.fidelity import between_halves
from consistency.metrics.training import cifar10

CLASSES = ("bird", "cat", "dog")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(n, seed=0):
    """Smooth colours with a bright spot: uint8 [n, 3, 32, 32], and labels by the spot's place."""
    label = torch.arange(n) % len(CLASSES)
    x = 60 + 80 * torch.rand(n, 3, 4, 4, generator=generator(seed))
    x = torch.nn.functional.interpolate(x, size=(32, 32), mode="bilinear")
    for i, place in enumerate(label.tolist()):
        x[i, place, 8 * place + 4 : 8 * place + 10, 4:28] = 250
    return x.byte(), label


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder as the scripts read it."""
    root = tmp_path_factory.mktemp("images")
    for split, n, seed in (("train", 150, 0), ("test", 60, 1)):
        for i, (image, label) in enumerate(zip(*pictures(n, seed), strict=True)):
            path = root / split / CLASSES[label] / f"{i:03d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.movedim(0, -1).numpy()).save(path)
    return root


@pytest.fixture(scope="module")
def weights(root):
    """Of a classifier that saw these images twice."""
    path = root / "small.safetensors"
    return path, cifar10.RECIPE.train(root, path, epochs=2)


class TestClassifier:
    def test_folder_is_read_by_class(self, root):
        images, labels = cifar10.load_folder(root / "test")
        assert images.shape == (60, 3, 32, 32)
        assert images.dtype == torch.uint8
        assert labels.bincount().tolist() == [20, 20, 20]
        assert torch.equal(images[labels == 1], pictures(60, 1)[0][1::3])

    def test_a_folder_that_cannot_be_read_is_named(self, tmp_path):
        with pytest.raises(UserError, match=r"absent.*CLASS/FILE"):
            cifar10.load_folder(tmp_path / "absent")
        for size, said in ((8, "holds images of 8x8 pixels"), (9, "CLASS/FILE images of 32x32 pixels")):
            (tmp_path / "cat").mkdir(exist_ok=True)
            Image.new("RGB", (size, size)).save(tmp_path / "cat" / f"{size}.png")
            with pytest.raises(UserError, match=said):
                cifar10.load_folder(tmp_path)

    def test_script_writes_what_the_extractor_reads(self, root, weights):
        path, accuracy = weights
        extractor = Cifar10Features(path)
        seen = extractor.see(pictures(5)[0])
        assert seen.features.shape == (5, 128) == (5, extractor.num_features)
        assert seen.logits.shape == (5, 10)
        assert torch.equal(extractor(pictures(5)[0]), seen.features)
        assert extractor.metric_name == "FD(cifar10-small)"
        assert not any(p.requires_grad for p in extractor.parameters())
        train = features(cifar10.load_folder(root / "train")[0], extractor, batch=500)
        assert between_halves(train, repeats=20)[0] == pytest.approx(1, rel=1e-3)
        with safe_open(path, "pt") as file:
            assert file.metadata()["accuracy"] == f"{accuracy:.4f}"

    def test_other_images_are_refused(self, weights):
        with pytest.raises(UserError, match=r"FD\(cifar10-small\) looks at uint8 images \[B, 3, 32, 32\]"):
            Cifar10Features(weights[0])(pictures(5)[0][:, :1])

    def test_absent_weights_say_what_writes_them(self, tmp_path):
        with pytest.raises(
            UserError, match=r"absent.*python -m consistency\.metrics\.training\.cifar10 FOLDER"
        ):
            Cifar10Features(tmp_path / "absent")

    def test_training_images_are_moved_and_mirrored_and_nothing_else(self):
        x = torch.full((300, 3, 32, 32), -1.0)
        x[:, :, 16, 10] = 1.0
        where = cifar10.augment_cifar10(x)[:, 0].flatten(1).argmax(1)
        rows, columns = where // 32 - 16, where % 32
        assert rows.unique().tolist() == list(range(-4, 5))
        assert columns.unique().tolist() == [*range(6, 15), *range(17, 26)]

    def test_shipped_file_is_small_and_tells_its_origin(self):
        assert WEIGHTS.stat().st_size <= 3 * 2**20
        with safe_open(WEIGHTS, "pt") as file:
            about = file.metadata()
        assert float(about["accuracy"]) > 0.85
        assert set(about) == {"accuracy", "seed", "epochs", "natural_floor"}
        assert torch.isfinite(Cifar10Features()(pictures(5)[0])).all()


class TestDegradations:
    @pytest.mark.parametrize("damage", damages(torch.arange(30) % 10), ids=lambda damage: damage.name)
    def test_all_give_images_that_are_farther_the_more_severe(self, damage):
        images = pictures(30)[0]
        before = images.clone()
        made = [damage.make(images, severity) for severity in damage.severities]
        assert torch.equal(images, before)
        assert all(image.dtype == torch.uint8 and image.shape[1:] == (3, 32, 32) for image in made)
        assert torch.equal(damage.make(images, damage.severities[0]), made[0])
        changes = [(30 - len(x)) or (x.float() - images.float()).square().mean().item() for x in made]
        assert changes == sorted(set(changes))
        assert changes[0] > 0

    def test_noise_has_the_deviation_that_it_says(self):
        grey = torch.full((40, 3, 32, 32), 128, dtype=torch.uint8)
        assert (add_noise(grey, 8).float() - 128).std().item() == pytest.approx(8, rel=0.02)
        assert torch.equal(add_noise(grey, 0), grey)
        assert not torch.equal(add_noise(grey, 8), add_noise(grey, 8, seed=1))

    def test_blur_spreads_a_point_by_its_deviation(self):
        point = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
        point[..., 16, 16] = 255
        row = blur_images(point, 2)[0, 0].double().sum(0)
        spread = (row * (torch.arange(32) - 16) ** 2).sum() / row.sum()
        assert spread.sqrt().item() == pytest.approx(2, rel=0.15)

    def test_jpeg_is_pillows(self):
        image = pictures(1)[0][0]
        file = io.BytesIO()
        Image.fromarray(image.movedim(0, -1).numpy()).save(file, "JPEG", quality=25)
        expected = torch.tensor(list(Image.open(file).tobytes())).reshape(32, 32, 3).movedim(-1, 0)
        assert torch.equal(compress_images(image[None], 75)[0].long(), expected)

    def test_a_square_hides_its_area_and_lies_inside(self):
        black = torch.zeros(50, 3, 32, 32, dtype=torch.uint8)
        hidden = hide_square(black, 8) == 128
        assert (hidden.flatten(1).sum(1) == 3 * 64).all()
        assert len({tuple(index.tolist()) for index in hidden[:, 0].nonzero()[::64, 1:]}) > 20

    def test_the_last_classes_are_left_out(self):
        images, labels = pictures(30)
        assert torch.equal(drop_classes(images, 2, labels=labels), images[labels == 0])

    def test_rounding_brings_all_levels_back_and_truncation_does_not(self):
        levels = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
        assert torch.equal(round_levels(levels.float()), levels)
        assert int((truncate_twice(levels) != levels).sum()) == 63
        assert truncate_levels(torch.tensor([-3.0, 0.9, 254.99, 300.0])).tolist() == [0, 0, 254, 255]

    def test_a_chessboard_is_grey_with_antialias_and_not_without(self):
        board = (torch.arange(32) % 4 < 1).byte().mul(255).expand(1, 3, 32, 32)
        soft, hard = (halve_images(board, antialias=antialias).float() for antialias in (True, False))
        assert soft.std() < 0.8 * hard.std()

    def test_the_stand_in_is_the_same_at_every_use(self):
        images = pictures(6)[0]
        one, other = (stand_in_samples(round_levels) for _ in range(2))
        assert torch.equal(one(images[:3]), other(images[:3]))
        assert not torch.equal(one(images[:3]), stand_in_samples(round_levels)(images[:3]))

    def test_rising_means_that_each_is_larger(self):
        assert [is_rising(values) for values in ([1, 2, 3], [1, 1, 2], [2, 1, 3])] == ["yes", "no", "no"]


def test_tables_of_a_tiny_folder(root, weights, monkeypatch, capsys):
    monkeypatch.setattr(degradations, "BATCH", 40)
    text = report_degradations(root, [Cifar10Features(weights[0]), RandomConvFeatures()])
    first, second = (
        [line.split(" | ") for line in table.splitlines()] for table in text.strip().split("\n\n")
    )
    assert first[0] == ["| ", "severity", "FD(cifar10-small)", "rises", "FD(random-conv)", "rises |"]
    assert [line[0][2:] for line in first[2:]] == ["none", *(d.name for d in damages(torch.zeros(1)))]
    assert all(line[5] == "yes |" for line in first[3:5])  # noise and blur, for any features
    names = [line[0][2:] for line in second[2:]]
    assert names[:6] == [
        "as it should be, 150 samples",
        "samples truncated",
        "30 samples",
        "15 samples",
        "6 samples",
        "60 test images as the reference",
    ]
    value = {name: float(line[2].rstrip(" |")) for name, line in zip(names, second[2:], strict=True)}
    assert value["6 samples"] > value["as it should be, 150 samples"]
    assert value["training images truncated from [-1, 1], against themselves"] > 0
    assert "tables: 9/9" in capsys.readouterr().err
