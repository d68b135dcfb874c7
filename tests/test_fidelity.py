"""Numbers of samples: torch-fidelity's, whatever the batches and the processes, by EDM's protocol."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils.data import Dataset
from torch_fidelity import FeatureExtractorBase, calculate_metrics, register_feature_extractor
from torch_fidelity.metric_isc import isc_features_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from consistency.errors import UserError
from consistency.lit.data.digits import Digits
from consistency.metrics import reference as reference_module
from consistency.metrics.card import Card, Memo
from consistency.metrics.features import Seen, features
from consistency.metrics.features.digits import DigitsFeatures
from consistency.metrics.features.random import RandomConvFeatures
from consistency.metrics.fidelity import frechet
from consistency.metrics.judge import Fidelity
from consistency.metrics.processes import everybodys, from_first, undeal
from consistency.metrics.scores import InceptionScore
from consistency.metrics.training.digits import load_digit_images
from tests.reference import edm_fid

CPU = torch.device("cpu")
N = 2000
NAMES = {
    "FD(digits)": "frechet_inception_distance",
    "IS(digits)": "inception_score_mean",
    "IS(digits) ±": "inception_score_std",
    "KD(digits)": "kernel_inception_distance_mean",
    "KD(digits) ±": "kernel_inception_distance_std",
    "precision(digits)": "precision",
    "recall(digits)": "recall",
}


def drawn(seed, std, n=N, source=None):
    """Digits drawn with replacement, with noise of so many grey levels, as float images in [0, 255]."""
    generator, source = (
        torch.Generator().manual_seed(seed),
        load_digit_images()[0] if source is None else source,
    )
    x = source[torch.randint(len(source), (n,), generator=generator)].float()
    return (x + std * torch.randn(x.shape, generator=generator)).clamp(0, 255)


def pair():
    """Real and made images."""
    return drawn(0, 4).round().byte(), drawn(1, 16).round().byte()


def dealt(batch, rank=0, world=1, cache=None):
    """What the judge says of `pair`, its batches dealt like cards."""
    real, made = pair()
    judge = Fidelity(DigitsFeatures(), cache=cache).thorough()
    judge.begin(real, CPU)
    for part in made.split(batch)[rank::world]:
        judge.update("samples", part)
    return {name.removesuffix("/samples"): value for name, value in judge.compute().items()}


class Images(Dataset):
    """uint8 images one by one, as torch-fidelity wants them."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


class Ours(FeatureExtractorBase):
    """Our extractor, for torch-fidelity."""

    def __init__(self, name, features_list, **_):
        super().__init__(name, features_list)
        self.extractor = DigitsFeatures()

    @staticmethod
    def get_provided_features_list():
        return "features", "logits"

    @staticmethod
    def get_default_feature_layer_for_metric(metric):
        return "logits" if metric == "isc" else "features"

    def forward(self, images):
        seen = self.extractor.see(images)._asdict()
        return tuple(seen[name] for name in self.features_list)


@pytest.fixture(scope="module")
def theirs():
    register_feature_extractor("ours", Ours)
    real, made = pair()
    return calculate_metrics(
        input1=Images(made), input2=Images(real), feature_extractor="ours", batch_size=100,
        fid=True, isc=True, kid=True, prc=True, cuda=False, cache=False, save_cpu_ram=True, verbose=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """What two processes say, by rank."""
    folder = tmp_path_factory.mktemp("two")
    mp.spawn(share, (folder,), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def share(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = {batch: dealt(batch, rank, 2, folder / f"cache{batch}") for batch in (7, 256)}
    found["kept"] = sorted(path.name for path in (folder / "cache7").iterdir())
    try:
        from_first(fail)
    except UserError as error:
        found["error"] = f"{error} on {rank}"
    found["order"] = undeal(everybodys(list(range(rank, 5, 2))))
    torch.save(found, folder / f"{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def fail():
    assert torch.distributed.get_rank() == 0
    raise UserError("the disk is full")


class TestAgreement:
    @pytest.mark.parametrize("batch", [7, 256])
    def test_one_process_says_what_torch_fidelity_says(self, theirs, batch):
        found = dealt(batch)
        for ours, name in NAMES.items():
            assert found[ours] == pytest.approx(theirs[name], rel=1e-5), ours

    @pytest.mark.parametrize("batch", [7, 256])
    def test_two_processes_say_the_same(self, theirs, two, batch):
        assert two[0][batch] == two[1][batch]
        for ours, name in NAMES.items():
            assert two[0][batch][ours] == pytest.approx(theirs[name], rel=1e-5), ours

    def test_the_numbers_are_worth_comparing(self, theirs):
        assert theirs["frechet_inception_distance"] > 1
        assert 0.1 < theirs["precision"] < 0.99
        assert 0.1 < theirs["recall"] < 0.99
        assert theirs["kernel_inception_distance_mean"] > theirs["kernel_inception_distance_std"] > 0

    @pytest.mark.parametrize("n", [3, 53])
    def test_splits_are_theirs_where_they_are_uneven(self, n):
        logits = 3 * torch.randn(n, 10, generator=torch.Generator().manual_seed(0))
        expected = isc_features_to_metric(logits, min(10, n), True, 2020)
        found = InceptionScore()(DigitsFeatures(), Seen(logits, logits), None)
        assert list(found.values()) == pytest.approx([*expected.values()], rel=1e-12)

    def test_torchmetrics_agrees_on_the_distance(self, theirs):
        real, made = pair()
        metric = FrechetInceptionDistance(DigitsFeatures(), input_img_size=(1, 8, 8))
        metric.update(real, real=True)
        metric.update(made, real=False)
        assert theirs["frechet_inception_distance"] == pytest.approx(metric.compute().item(), rel=1e-4)

    def test_a_failure_of_the_first_process_is_one_of_all(self, two):
        assert [found["error"] for found in two] == [f"the disk is full on {rank}" for rank in range(2)]

    def test_what_was_dealt_comes_back_in_order(self, two):
        assert [found["order"] for found in two] == [[0, 1, 2, 3, 4]] * 2

    def test_two_processes_keep_one_file(self, two):
        assert len(two[0]["kept"]) == 1

    def test_autocast_moves_nothing(self):
        real, made = pair()
        values = []
        for enabled in (False, True):
            judge = Fidelity(DigitsFeatures())
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                judge.begin(real, CPU)
                judge.update("samples", made)
                values.append(judge.compute())
        assert values[0] == values[1]

    def test_too_few_images_are_explained(self):
        judge = Fidelity(DigitsFeatures()).thorough()
        judge.begin(load_digit_images()[0][:9], CPU)
        judge.update("samples", load_digit_images()[0][:3])
        with pytest.raises(UserError, match="precision and recall need more than 3 images"):
            judge.compute()


class TestReference:
    @pytest.fixture
    def seen(self, monkeypatch):
        """Images that the extractor has been shown, counted."""
        shown = []

        def see(images, extractor):
            shown.append(len(images))
            return fresh(images, extractor)

        fresh = reference_module.see
        monkeypatch.setattr(reference_module, "see", see)
        return shown

    def test_is_computed_once_and_comes_back_the_same(self, tmp_path, seen):
        real = load_digit_images()[0]
        first, second = (reference_module.reference(real, DigitsFeatures(), tmp_path) for _ in range(2))
        assert sum(seen) == len(real) == len(first) == len(second)
        assert torch.equal(first.features, second.features)
        assert torch.equal(first.moments.mean, second.moments.mean)
        assert torch.equal(first.moments.cov, second.moments.cov)
        assert (first.floor, first.sha256) == (second.floor, second.sha256)
        assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]

    def test_another_image_or_other_weights_are_another_file(self, tmp_path, seen):
        real, other, weights = (
            load_digit_images()[0][:50],
            load_digit_images()[0][:50].clone(),
            DigitsFeatures(),
        )
        other[7, 0, 3, 3] ^= 1
        with torch.no_grad():
            weights.body[0].bias[0] += 1e-3
        for images, extractor in ((real, DigitsFeatures()), (other, DigitsFeatures()), (real, weights)):
            reference_module.reference(images, extractor, tmp_path)
        assert seen == [50, 50, 50]
        assert len(list(tmp_path.iterdir())) == 3

    @pytest.mark.parametrize("damage", ["cut", "empty"])
    def test_a_damaged_file_is_made_again(self, tmp_path, seen, damage):
        first = reference_module.reference(load_digit_images()[0][:50], DigitsFeatures(), tmp_path)
        (path,) = tmp_path.iterdir()
        whole = path.read_bytes()
        path.write_bytes({"cut": whole[: len(whole) // 2], "empty": b""}[damage])
        second = reference_module.reference(load_digit_images()[0][:50], DigitsFeatures(), tmp_path)
        assert seen == [50, 50]
        assert torch.equal(first.features, second.features)
        assert path.read_bytes() == whole

    def test_other_tensors_under_its_name_are_replaced(self, tmp_path, seen):
        reference_module.reference(load_digit_images()[0][:50], DigitsFeatures(), tmp_path)
        (path,) = tmp_path.iterdir()
        save_file({"features": torch.zeros(50, 64)}, path)
        assert len(reference_module.reference(load_digit_images()[0][:50], DigitsFeatures(), tmp_path)) == 50
        assert seen == [50, 50]

    def test_without_a_cache_nothing_is_kept(self, seen):
        for _ in range(2):
            reference_module.reference(load_digit_images()[0][:50], DigitsFeatures(), None)
        assert seen == [50, 50]

    def test_the_judge_sees_the_data_once(self, seen):
        judge = Fidelity(DigitsFeatures())
        for _ in range(2):
            judge.begin(load_digit_images()[0][:50], CPU)
        assert seen == [50]


class TestMemo:
    def test_a_known_card_is_not_computed_again_and_another_seed_is(self, tmp_path):
        made = []

        def measure():
            made.append(0)
            return {"FD": 1 / 3}

        cards = [Card({"step": 1}, {"seed": seed}, {"version": 1}) for seed in (0, 0, 1)]
        found = [Memo(tmp_path).once(card, measure) for card in cards]
        assert found == [{"FD": 1 / 3}] * 3
        assert len(made) == len(list(tmp_path.iterdir())) == 2

    def test_a_damaged_file_is_made_again_and_none_is_kept_without_a_folder(self, tmp_path):
        card, memo = Card({}, {}, {}), Memo(tmp_path)
        memo.once(card, lambda: {"FD": 1})
        (path,) = tmp_path.iterdir()
        path.write_text(path.read_text()[:9])
        assert memo.once(card, lambda: {"FD": 2}) == memo.once(card, lambda: {"FD": 3}) == {"FD": 2}
        assert [Memo(None).once(card, lambda i=i: i) for i in range(2)] == [0, 1]


class TestProtocol:
    """EDM's, and how far the common wrong choices are from it."""

    @pytest.fixture
    def data(self):
        return Digits(batch_size=8, offset=127.5, scale=127.5)

    @pytest.fixture
    def x(self):
        """Float samples in [-1, 1], between the levels."""
        return drawn(1, 8) / 127.5 - 1

    def distance(self, made, real=None):
        judge = Fidelity(DigitsFeatures())
        judge.begin(load_digit_images()[0] if real is None else real, CPU)
        judge.update("x", made)
        return judge.compute()["FD(digits)/x"]

    def test_equals_one_that_was_written_from_the_paper(self, data, x):
        def see(u):
            with torch.no_grad():
                return extractor(torch.from_numpy(u)).numpy()

        extractor = DigitsFeatures()
        expected = edm_fid.fid(x.numpy(), load_digit_images()[0].numpy(), see)
        assert self.distance(data.codec.decode(x)) == pytest.approx(expected, rel=1e-5)
        assert np.array_equal(data.codec.decode(x).numpy(), edm_fid.rounded(x.numpy()))

    def test_truncation_damages_the_data_themselves(self, data):
        levels = torch.arange(256, dtype=torch.uint8).reshape(-1, 1, 1, 1)
        cut = torch.from_numpy(edm_fid.truncated(data.codec.encode(levels).numpy()))
        assert torch.equal(data.codec.decode(data.codec.encode(levels)), levels)
        assert (cut != levels).sum() > 50
        real = load_digit_images()[0]
        damaged = torch.from_numpy(edm_fid.truncated(data.codec.encode(real).numpy()))
        assert self.distance(data.codec.decode(data.codec.encode(real))) == pytest.approx(0, abs=1e-6)
        assert self.distance(damaged) > 1e-4

    def test_truncation_moves_the_figure(self, data, x):
        right = self.distance(data.codec.decode(x))
        wrong = self.distance(torch.from_numpy(edm_fid.truncated(x.numpy())))
        assert abs(wrong / right - 1) > 5e-3

    def test_the_test_split_as_reference_is_farther(self):
        real = load_digit_images()[0][torch.randperm(1797, generator=torch.Generator().manual_seed(0))]
        train, test = real[:900], real[900:]
        made = drawn(1, 4, source=train).round().byte()
        assert self.distance(made, test) > 1.5 * self.distance(made, train)

    def test_fewer_samples_are_farther(self, data, x):
        made = data.codec.decode(x)
        parts = [self.distance(part) for part in made.split(N // 4)]
        assert min(parts) > 1.1 * self.distance(made)

    def test_a_reference_resized_without_antialias_is_another(self):
        """Sharp images of 32 pixels seen at 8: every fourth pixel is not the mean of its surroundings."""
        sharp = drawn(0, 0).repeat_interleave(4, -1).repeat_interleave(4, -2)
        sharp = (sharp + 40 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(2))).clamp(
            0, 255
        )
        small = [
            F.interpolate(sharp, size=(8, 8), mode="bilinear", antialias=antialias).round().byte()
            for antialias in (True, False)
        ]
        extractor = RandomConvFeatures(channels=1)
        right, wrong = (features(images, extractor) for images in small)
        halves = frechet(right[: N // 2], right[N // 2 :])
        assert frechet(right, wrong) > 10 * halves
