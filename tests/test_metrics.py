import math
import pickle

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from consistency.errors import UserError
from consistency.metrics import fidelity
from consistency.metrics.features import Extractor, features, see
from consistency.metrics.features.digits import WEIGHTS, DigitsFeatures
from consistency.metrics.features.inception import INCEPTION, InceptionFeatures
from consistency.metrics.features.random import RandomConvFeatures
from consistency.metrics.fidelity import between_halves, feature_moments, frechet
from consistency.metrics.judge import Fidelity, Transport
from consistency.metrics.training import digits as digits_module
from consistency.metrics.training.digits import load_digit_images
from consistency.metrics.transport import (
    directions,
    sliced_wasserstein2,
    transport_1d,
    transport_floor,
    wasserstein2,
)
from consistency.truth.oracle import Mixture
from tests.reference import frechet as reference


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, dimension=2, seed=0):
    return torch.randn(n, dimension, generator=generator(seed), dtype=torch.float64)


def images(n, channels=1, size=8, seed=0):
    return torch.randint(0, 256, (n, channels, size, size), generator=generator(seed), dtype=torch.uint8)


class FlatPixels(Extractor):
    """Pixels themselves: the least an extractor can be."""

    def __init__(self):
        super().__init__("pixels", num_features=16)
        self.freeze()

    def forward(self, images):
        self.expect(images, 1, 4, 4)
        return images.flatten(1).float() / 255


@pytest.fixture(scope="module")
def real():
    return load_digit_images()[0]


@pytest.fixture(scope="module")
def extractor():
    return DigitsFeatures()


class TestTransport:
    def test_identical_sets_are_at_distance_zero(self):
        a = points(101)
        assert sliced_wasserstein2(a, a[torch.randperm(101, generator=generator())]) == 0
        assert wasserstein2(a, a.flip(0)) == 0

    def test_line_equals_numpy_sorting(self):
        a, b = points(50, 1), 2 * points(50, 1, seed=1) + 0.3
        expected = math.sqrt(np.mean((np.sort(a.numpy(), 0) - np.sort(b.numpy(), 0)) ** 2))
        assert sliced_wasserstein2(a, b) == pytest.approx(expected, rel=1e-12)
        assert wasserstein2(a, b) == pytest.approx(expected, rel=1e-12)

    @pytest.mark.parametrize(("mean", "std"), [(0.0, 2.0), (0.7, 1.0), (-1.0, 0.3)])
    def test_gaussians_of_a_line_in_closed_form(self, mean, std):
        """W₂² = (μ_a - μ_b)² + (s_a - s_b)²."""
        a, b = points(100_000, 1), mean + std * points(100_000, 1, seed=1)
        assert sliced_wasserstein2(a, b, projections=1) == pytest.approx(math.hypot(mean, 1 - std), abs=0.02)

    @pytest.mark.parametrize(("dimension", "projections"), [(2, 128), (3, 12), (7, 7), (64, 128)])
    def test_translation_by_delta_costs_delta_over_root_d(self, dimension, projections):
        """The mean of (θ·δ)² over an orthonormal frame is ‖δ‖²/D."""
        a, delta = points(30, dimension), points(1, dimension, seed=2)
        expected = delta.norm().item() / math.sqrt(dimension)
        assert sliced_wasserstein2(a, a + delta, projections) == pytest.approx(expected, rel=1e-10)

    @pytest.mark.parametrize(("dimension", "count"), [(2, 128), (5, 8), (300, 16)])
    def test_directions_are_orthonormal_frames(self, dimension, count):
        frames = directions(dimension, count, seed=3)
        width = frames.shape[2]
        assert torch.allclose(frames.mT @ frames, torch.eye(width).double(), atol=1e-12)
        assert count <= frames.shape[0] * width < count + width
        assert not torch.equal(frames, directions(dimension, count, seed=4))

    def test_directions_are_uniform_on_the_sphere(self):
        theta = directions(3, 30_000, seed=0).mT.reshape(-1, 3)
        for moment, expected in ((2, 1 / 3), (4, 1 / 5)):
            assert torch.allclose(theta.pow(moment).mean(0), torch.full((3,), expected).double(), atol=0.01)

    def test_unequal_sizes_match_quantile_functions(self):
        """Mass repeated does not move: 6 against 4 points equals 12 against 12."""
        a, b = points(6), points(4, seed=1)
        expected = sliced_wasserstein2(a.repeat_interleave(2, 0), b.repeat_interleave(3, 0))
        assert sliced_wasserstein2(a, b) == pytest.approx(expected, rel=1e-12)
        assert sliced_wasserstein2(b, a) == pytest.approx(expected, rel=1e-12)
        one = transport_1d(torch.zeros(1, 1).double(), torch.tensor([[1.0], [2.0], [4.0]]).double())
        assert one.item() == pytest.approx(21 / 3)

    def test_images_are_vectors(self):
        a, b = points(20, 12), points(20, 12, seed=1)
        image_shaped = sliced_wasserstein2(a.reshape(20, 3, 2, 2), b.reshape(20, 3, 2, 2).float())
        assert image_shaped == pytest.approx(sliced_wasserstein2(a, b), rel=1e-6)

    def test_exact_distance_bounds_the_sliced_one(self):
        """W₂²/D >= SW₂²: projecting an optimal plan is a plan."""
        a, b = points(200), 0.5 * points(200, seed=1) + 0.2
        assert wasserstein2(a, b) / math.sqrt(2) >= sliced_wasserstein2(a, b)
        delta = torch.tensor([[3.0, 4.0]]).double()
        assert wasserstein2(a, a + delta) == pytest.approx(5, rel=1e-12)

    def test_floor_is_small_and_falls_with_n(self):
        ring = Mixture.ring()
        draw = generator(1)
        values = [transport_floor(lambda n: ring.sample(n, draw), n) for n in (500, 50_000)]
        assert 0.001 < values[1] < 0.015
        assert values[1] < values[0] / 3

    def test_misuse_is_explained(self):
        with pytest.raises(UserError, match="equally many"):
            wasserstein2(points(3), points(4))
        with pytest.raises(UserError, match="at most 1000"):
            wasserstein2(points(1001), points(1001))
        with pytest.raises(UserError, match="dimensions"):
            sliced_wasserstein2(points(3, 2), points(3, 3))


class TestFrechet:
    @pytest.mark.parametrize(("n", "m", "d"), [(500, 300, 8), (90, 2000, 40), (50, 60, 1)])
    def test_equals_the_matrix_square_root(self, n, m, d):
        mix = points(d, d, seed=5)
        a, b = points(n, d) @ mix, points(m, d, seed=1) + 0.3
        if d == 1:
            expected = (a.mean() - b.mean()) ** 2 + (a.std() - b.std()) ** 2
        else:
            expected = reference.frechet(a.numpy(), b.numpy())
        assert frechet(a, b) == pytest.approx(float(expected), rel=1e-9)

    def test_fewer_samples_than_features(self):
        """Singular covariances: the distance of a set to itself stays 0, up to √(rounding)."""
        a = points(10, 40)
        assert frechet(a, a) == pytest.approx(0, abs=1e-5)
        assert frechet(a, a + 1) == pytest.approx(40, abs=1e-5)

    @pytest.mark.parametrize("batch", [7, 300])
    def test_streaming_equals_numpy(self, real, extractor, batch):
        fake = (real.float() + 20 * torch.randn(real.shape, generator=generator())).clamp(0, 255).byte()[:900]
        seen = [features(x, extractor).double().numpy() for x in (real[:800], fake)]
        found = judged(Fidelity(extractor), real[:800], fake, batch)
        assert found["FD(digits)/x"] == pytest.approx(reference.frechet(*seen), rel=1e-6)
        assert frechet(*map(torch.from_numpy, seen)) == pytest.approx(reference.frechet(*seen), rel=1e-6)

    def test_moments_are_numpys_in_blocks_of_any_size(self, monkeypatch):
        x = 1000 + points(50, 3).float()  # a mean that would drown the covariance in float32
        for block in (7, 4096):
            monkeypatch.setattr(fidelity, "BLOCK", block)
            mean, cov = feature_moments(x)
            assert mean.dtype == cov.dtype == torch.float64
            np.testing.assert_allclose(mean, x.double().numpy().mean(0), rtol=1e-12)
            np.testing.assert_allclose(cov, np.cov(x.double().numpy(), rowvar=False), rtol=1e-9)

    def test_the_data_survive_new_samples(self):
        judge = Fidelity(FlatPixels())
        values = [judged(judge, images(40, size=4), images(40, size=4, seed=seed)) for seed in (1, 2, 1)]
        assert values[0] == values[2] != values[1]

    def test_autocast_does_not_change_what_is_seen(self, real, extractor):
        plain = see(real[:9], extractor)
        with torch.autocast("cpu", torch.bfloat16):
            assert all(map(torch.equal, see(real[:9], extractor), plain))
            assert not torch.equal(extractor(real[:9]).float(), plain.features)

    def test_validation_in_inference_mode_may_be_followed_by_updates_outside(self):
        judge = Fidelity(FlatPixels())
        with torch.inference_mode():
            inside = judged(judge, images(30, size=4), images(30, size=4, seed=1))
            judge.update("x", images(30, size=4, seed=2))
        judge.update("x", images(30, size=4, seed=3))
        made = torch.cat([images(30, size=4, seed=seed) for seed in (2, 3)])
        assert judge.compute() == judged(Fidelity(FlatPixels()), images(30, size=4), made, 30)
        assert inside == judged(Fidelity(FlatPixels()), images(30, size=4), images(30, size=4, seed=1))

    def test_too_few_images_are_explained(self):
        with pytest.raises(UserError, match="needs at least 2 real and 2 generated images, not 1"):
            judged(Fidelity(FlatPixels()), images(9, size=4), images(1, size=4))

    def test_floor_is_the_distance_between_halves(self):
        x = images(60, size=4)
        seen = features(x, FlatPixels(), batch=11)
        assert judged(Fidelity(FlatPixels()), x, x)["FD(pixels)/floor"] == between_halves(seen)[0]
        one, other = torch.randperm(60, generator=generator(3)).tensor_split(2)
        expected = reference.frechet(seen[one].double().numpy(), seen[other].double().numpy())
        assert between_halves(seen, repeats=1, seed=3) == (pytest.approx(expected, rel=1e-9), 0.0)

    def test_two_processes_with_uneven_shards_equal_one(self, tmp_path):
        judge = Fidelity(FlatPixels())
        expected = judged(judge, images(101, size=4), images(60, size=4, seed=1))
        mp.spawn(shard, (tmp_path,), nprocs=2)
        found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
        assert found[0] == found[1] == pytest.approx(expected, rel=1e-9)


def judged(judge, real, made, batch=1000):
    """What a judge says of samples called x."""
    judge.begin(real, torch.device("cpu"))
    for part in made.split(batch):
        judge.update("x", part)
    return judge.compute()


def shard(rank, folder):
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    judge = Fidelity(FlatPixels())
    judge.begin(images(101, size=4), torch.device("cpu"))
    made = images(60, size=4, seed=1)
    for part in ([made[:13], made[40:]], [made[13:40]])[rank]:
        judge.update("x", part)
    torch.save(judge.compute(), folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


class TestExtractors:
    @pytest.mark.parametrize("make", [DigitsFeatures, RandomConvFeatures, FlatPixels])
    def test_are_frozen_and_named(self, make):
        extractor = make()
        assert not any(p.requires_grad for p in extractor.parameters())
        assert not extractor.train().training
        assert not any(m.training for m in nn.Sequential(extractor).train()[0].modules())
        assert extractor.metric_name == f"FD({extractor.name})"

    def test_shape_and_type_are_checked(self, extractor):
        assert extractor(images(3)).shape == (3, extractor.num_features)
        for wrong in (images(3, size=28), images(3, channels=3), images(3).float(), images(3)[0]):
            with pytest.raises(UserError, match=r"FD\(digits\) looks at uint8 images \[B, 1, 8, 8\]"):
                extractor(wrong)

    @pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 28), (3, 8)])
    def test_random_features_take_any_image(self, channels, size):
        x = images(5, channels, size)
        seen = RandomConvFeatures()(x)
        assert seen.shape == (5, 64)
        assert torch.equal(seen, RandomConvFeatures()(x))
        assert not torch.equal(seen, RandomConvFeatures(seed=1)(x))
        assert torch.allclose(seen, RandomConvFeatures()(x.expand(-1, 3, -1, -1)))
        with pytest.raises(UserError, match=r"FD\(random-conv\)"):
            RandomConvFeatures()(images(5, channels=2))

    def test_random_features_leave_the_global_generator_alone(self):
        torch.manual_seed(5)
        made = RandomConvFeatures()(images(2, 3))
        torch.manual_seed(6)
        assert torch.equal(made, RandomConvFeatures()(images(2, 3)))

    @pytest.mark.parametrize("make", [DigitsFeatures, lambda: RandomConvFeatures(channels=1)])
    def test_distances_rank_degradations(self, real, make):
        """Two halves of the data < light noise < a Gaussian with the data's moments < noise alone."""
        extractor, z = make(), torch.randn(real.shape, generator=generator())
        x = real.float()
        flat = x.flatten(1).double()
        root = torch.linalg.cholesky(flat.T.cov() + 1e-6 * torch.eye(64))
        gaussian = flat.mean(0) + torch.randn(flat.shape, generator=generator(1)).double() @ root.T
        fakes = [x + 0.6 * x.std() * z, gaussian.reshape(x.shape), x.mean() + x.std() * z]
        seen = features(real, extractor)
        distances = [frechet(features(f.round().clamp(0, 255).byte(), extractor), seen) for f in fakes]
        assert between_halves(seen)[0] < distances[0] < distances[1] < distances[2]


class TestDigits:
    def test_data_are_scikit_learns(self):
        x, label = load_digit_images()
        assert x.shape == (1797, 1, 8, 8)
        assert x.dtype == torch.uint8
        assert len(set(x.unique().tolist())) == 17
        assert (x.min(), x.max()) == (0, 255)
        assert label.unique().tolist() == list(range(10))

    def test_shipped_classifier_knows_its_digits(self, extractor, real):
        p = extractor.classify(real)
        assert (p.argmax(1) == load_digit_images()[1]).double().mean() > 0.99
        assert (p.amax(1) > 0.9).double().mean() > 0.97

    def test_shipped_file_tells_its_origin(self):
        assert WEIGHTS.stat().st_size <= 300_000
        with safe_open(WEIGHTS, "pt") as file:
            about = file.metadata()
        assert float(about["accuracy"]) > 0.985
        assert set(about) == {"accuracy", "seed", "epochs", "natural_floor"}

    def test_halves_of_the_data_are_four_apart(self, extractor, real):
        assert between_halves(features(real, extractor), repeats=20, seed=1)[0] == pytest.approx(4, abs=1)

    def test_script_writes_what_the_extractor_reads(self, tmp_path, capsys, real):
        paths = [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
        accuracies = [digits_module.train_digits(path, seed=1, epochs=2) for path in paths]
        one, two = (DigitsFeatures(path)(real[:50]) for path in paths)
        assert torch.equal(one, two)
        assert 0.5 < accuracies[0] == accuracies[1]
        assert f"accuracy={accuracies[0]:.4f}" in capsys.readouterr().out
        natural = features(real, DigitsFeatures(paths[0]))
        assert between_halves(natural, repeats=20)[0] == pytest.approx(4, rel=1e-4)

    def test_augmentation_moves_by_a_pixel_at_most(self):
        x = torch.full((200, 1, 8, 8), -1.0)
        x[:, :, 4, 3] = 100.0
        moved = digits_module.augment_digits(x).flatten(1).argmax(1)
        offsets = {(int(i) // 8 - 4, int(i) % 8 - 3) for i in moved}
        assert offsets == {(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)}

    def test_unreadable_weights_name_the_file(self, tmp_path):
        with pytest.raises(UserError, match=r"absent\.safetensors.*python -m"):
            DigitsFeatures(tmp_path / "absent.safetensors")
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(WEIGHTS.read_bytes()[:100_000])
        with pytest.raises(UserError, match=r"cut\.safetensors"):
            DigitsFeatures(cut)
        other = tmp_path / "other.safetensors"
        save_file({"weight": torch.zeros(3)}, other)
        with pytest.raises(UserError, match=r"other\.safetensors.*classifier"):
            DigitsFeatures(other)


class Trap:
    """Unpickling this touches a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


class TestInception:
    def test_missing_weights_offline_say_what_to_do(self, tmp_path, monkeypatch):
        def offline(*_, **__):
            raise OSError("no network")

        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        with pytest.raises(UserError) as caught:
            InceptionFeatures()
        said = str(caught.value)
        for word in (
            INCEPTION.name,
            str(tmp_path),
            "metric.extractor.weights",
            "no network",
            "metric=digits",
        ):
            assert word in said
        assert "\n" not in said

    def test_wrong_files_are_named_and_never_executed(self, tmp_path):
        with pytest.raises(UserError, match=r"absent\.pth does not exist"):
            InceptionFeatures(tmp_path / "absent.pth")
        bad = {"text.pth": b"not a checkpoint", "empty.pth": b"", "trap.pth": b""}
        for name, content in bad.items():
            (tmp_path / name).write_bytes(content)
        (tmp_path / "trap.pth").write_bytes(pickle.dumps(Trap(tmp_path / "sprung"), protocol=2))
        torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pth")
        for name in (*bad, "other.pth"):
            with pytest.raises(UserError, match=name.replace(".", r"\.")) as caught:
                InceptionFeatures(tmp_path / name)
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "sprung").exists()

    def test_equals_torch_fidelity_and_repeats_grey(self, tmp_path, monkeypatch):
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        torch.manual_seed(0)
        torch.save({}, tmp_path / "nothing.pth")
        with monkeypatch.context() as patch:
            patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
            net = FeatureExtractorInceptionV3("net", ["2048"], str(tmp_path / "nothing.pth"))
        torch.save(net.state_dict(), tmp_path / "random.pth")
        extractor = InceptionFeatures(tmp_path / "random.pth")
        grey = images(2, size=28)
        seen = extractor(grey)
        assert extractor.metric_name == "FID"
        assert seen.shape == (2, extractor.num_features) == (2, 2048)
        assert torch.equal(seen, net(grey.expand(-1, 3, -1, -1))[0])
        assert not any(p.requires_grad for p in extractor.parameters())
        with pytest.raises(UserError, match="FID looks at uint8"):
            extractor(images(2, channels=2))


class TestTransportJudge:
    def test_samples_and_floor(self):
        torch.manual_seed(0)
        real = torch.randn(4000, 2)
        judge = Transport()
        judge.begin(real, torch.device("cpu"))
        for _ in range(4):
            judge.update("good", torch.randn(500, 2))
            judge.update("shifted", torch.randn(500, 2) + 1)
        found = judge.compute()
        assert found["SW2/good"] < 3 * found["SW2/floor"]
        assert found["SW2/shifted"] == pytest.approx(1, abs=0.1)  # ‖(1, 1)‖/√2
        judge.update("good", torch.randn(5000, 2))  # the samples before are forgotten; more of them than data
        assert judge.compute().keys() == {"SW2/good", "SW2/floor"}

    def test_the_floor_is_between_different_points(self):
        judge = Transport()
        judge.begin(torch.randn(1000, 2), torch.device("cpu"))
        judge.update("good", torch.randn(1000, 2))
        assert judge.compute()["SW2/floor"] > 0.01


class TestFidelityJudge:
    def test_it_says_what_the_distance_says(self):
        real, _ = load_digit_images()
        judge = Fidelity(DigitsFeatures())
        judge.begin(real, torch.device("cpu"))
        judge.begin(real, torch.device("cpu"))  # seen already
        for part in real[:900].split(100):
            judge.update("half", part)
        found = judge.compute()
        seen = features(real, DigitsFeatures())
        assert found["FD(digits)/half"] == pytest.approx(frechet(seen, seen[:900]), rel=1e-6)
        assert found["FD(digits)/floor"] == pytest.approx(between_halves(seen)[0])
        judge.update("half", real)
        assert abs(judge.compute()["FD(digits)/half"]) < 1e-6  # the samples before are forgotten
