"""Batches are functions of their step, noise of the sample, and the data are what they say."""

import gzip
import itertools
import pickle
import threading
from hashlib import md5

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import nn
from torchvision import datasets

from consistency.data.loader import ArrayData, Batch, RequestLoader, StepLoader
from consistency.errors import UserError
from consistency.lit.data.digits import Digits
from consistency.lit.data.module import DataModule
from consistency.lit.data.points import Moons, Ring
from consistency.lit.data.vision import CIFAR10, FashionMNIST

LEVELS = torch.arange(256).to(torch.uint8)


def numbered(count):
    """Points whose only coordinate is their number, labelled with it."""
    return ArrayData(torch.arange(count).float()[:, None], torch.arange(count))


def seen(loader, steps):
    return torch.stack([batch.c.label for batch in itertools.islice(loader, steps)])


class Levels(DataModule):
    """One image per grey level, so that no two are alike; marked in the left column."""

    def load(self):
        x = LEVELS.reshape(-1, 1, 1, 1).repeat(1, 1, 1, 2)
        x[..., 1] = 255 - x[..., 1]
        return ArrayData(x, torch.arange(256) % 10)


# --- the loader


@pytest.mark.parametrize("batch", [4, 10, 30])
def test_every_sample_comes_once_an_epoch_and_orders_differ(batch):
    stream = seen(StepLoader(numbered(10), batch, seed=1), 60 // batch + 1).flatten()[:60]
    epochs = stream.reshape(6, 10)
    assert torch.equal(epochs.sort(1).values, torch.arange(10).expand(6, 10))
    assert len({tuple(epoch) for epoch in epochs.tolist()}) == 6


def test_the_stream_does_not_depend_on_how_it_is_cut():
    small = seen(StepLoader(numbered(10), 6, seed=1), 12)
    large = seen(StepLoader(numbered(10), 24, seed=1), 3)
    assert torch.equal(small.flatten(), large.flatten())
    assert not torch.equal(small, seen(StepLoader(numbered(10), 6, seed=2), 12))


def test_sample_and_label_belong_together():
    for batch in itertools.islice(StepLoader(numbered(7), 5, seed=0), 6):
        assert torch.equal(batch.x[:, 0].long(), batch.c.label)


def test_two_processes_share_the_batches_of_one():
    images = Levels(batch_size=8, conditional=True).data
    whole = StepLoader(images, 100, seed=3, flip=True)
    halves = [StepLoader(images, 100, seed=3, rank=rank, world=2, flip=True) for rank in (0, 1)]
    for one, *two in itertools.islice(zip(whole, *halves, strict=True), 6):
        assert torch.equal(one.x, torch.cat([part.x for part in two]))
        assert torch.equal(one.c.label, torch.cat([part.c.label for part in two]))


def test_a_restart_continues_the_stream():
    through = seen(StepLoader(numbered(10), 4, seed=1), 9)
    restarted = seen(StepLoader(numbered(10), 4, seed=1, start=5), 4)
    assert torch.equal(through[5:], restarted)


def test_half_the_images_are_mirrored_anew_every_epoch():
    images = Levels(batch_size=8, conditional=True).data
    plain, mirrored = (next(iter(StepLoader(images, 1024, seed=0, flip=flip))) for flip in (False, True))
    turned = (plain.x != mirrored.x).any(-1).flatten()
    assert torch.equal(mirrored.x[turned], plain.x[turned].flip(-1))
    assert abs(turned.float().mean() - 0.5) < 5 * 0.5 / 1024**0.5
    of_level = turned[plain.x[:, 0, 0, 0].argsort(stable=True)].reshape(256, 4)
    assert 0 < of_level.all(1).float().mean() < 0.2  # 1/16 if the four epochs are independent


def test_prefetching_changes_nothing_and_its_thread_ends():
    before = threading.active_count()
    ahead = iter(StepLoader(numbered(10), 4, seed=1, start=2, prefetch=3))
    assert torch.equal(seen(ahead, 9), seen(StepLoader(numbered(10), 4, seed=1, start=2), 9))
    assert threading.active_count() == before + 1
    ahead.close()
    assert threading.active_count() == before


def test_prefetching_passes_errors_on():
    with pytest.raises(IndexError):
        next(iter(StepLoader(ArrayData(torch.zeros(3, 2), torch.zeros(1)), 3, seed=0, prefetch=2)))


# --- requests for samples


@pytest.mark.parametrize(("batch", "world"), [(64, 1), (7, 1), (7, 2), (3, 3)])
def test_sample_i_has_its_own_noise_and_comes_once(batch, world):
    whole = next(iter(RequestLoader(23, (1, 2, 2), 23, seed=5, classes=4)))
    loaders = [RequestLoader(23, (1, 2, 2), batch, 5, 4, rank, world) for rank in range(world)]
    requests = [request for loader in loaders for request in loader]
    assert len(requests) == sum(map(len, loaders))
    z, label = torch.cat([r.z for r in requests]), torch.cat([r.c.label for r in requests])
    later = torch.cat([r.draws.normal(r.z) for r in requests])
    order = [(z == sample).flatten(1).all(1).nonzero().item() for sample in whole.z]
    assert sorted(order) == list(range(23))
    assert torch.equal(label[order], torch.arange(23) % 4)
    assert torch.equal(later[order], whole.draws.normal(whole.z))


def test_requests_without_classes_have_no_label_and_repeat():
    loader = RequestLoader(5, (2,), 5, seed=0)
    first, again = next(iter(loader)), next(iter(loader))
    assert first.c.label is None
    assert torch.equal(first.z, again.z)


# --- the module


def test_all_levels_survive_encoding():
    module = Levels(batch_size=8)
    u = LEVELS.reshape(-1, 1, 1, 1)
    x = module.codec.encode(u)
    assert (x.min(), x.max(), x.dtype) == (-1, 1, torch.float32)
    assert torch.equal(module.codec.decode(x), u)
    assert torch.equal(module.codec.decode(x.double()), u)
    other = u.float() / 127.5 - 1  # as other encoders round it
    assert torch.equal(module.codec.decode(other), u)
    assert (((other + 1) * 127.5).to(torch.uint8) != u).sum() == 63  # what this test is there to catch


def test_decoding_rounds_to_the_nearest_level_and_clamps():
    x = torch.tensor([-7.0, -1, 0, 1, 7, 0.3 / 127.5 - 1, 0.7 / 127.5 - 1])
    assert Levels(batch_size=8).codec.decode(x).tolist() == [0, 0, 128, 255, 255, 0, 1]


def test_labels_are_served_only_when_asked_for():
    plain, conditional = Levels(batch_size=4), Levels(batch_size=4, conditional=True)
    assert (plain.classes, conditional.classes) == (0, 10)
    assert (plain.shape, conditional.shape) == ((1, 1, 2), (1, 1, 2))
    assert next(iter(plain.train_dataloader())).c.label is None
    assert next(iter(conditional.train_dataloader())).c.label.dtype == torch.long
    assert next(iter(plain.val_dataloader())).c.label is None
    assert next(iter(conditional.val_dataloader())).c.label.tolist()[:11] == [*range(10), 0]


def test_data_are_loaded_once():
    class Counting(Levels):
        loads = 0

        def load(self):
            self.loads += 1
            return super().load()

    module = Counting(batch_size=4)
    module.prepare_data()
    module.setup("fit")
    module.setup("validate")
    assert module.real() is module.data.x
    assert (module.loads, module.shape) == (1, (1, 1, 2))


@pytest.mark.parametrize("key", ["batch_size", "samples", "sample_batch"])
def test_counts_must_be_positive(key):
    with pytest.raises(UserError, match=rf"data\.{key}=0"):
        Levels(**{"batch_size": 4, key: 0})


def test_labels_that_are_not_there_are_an_error():
    with pytest.raises(UserError, match=r"data\.conditional"):
        _ = Ring(batch_size=4, points=64, conditional=True).shape


# --- under Lightning


class Recorder(LightningModule):
    """Learns nothing; keeps what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight, self.shown, self.asked = nn.Parameter(torch.zeros(())), [], []

    def training_step(self, batch, index):
        self.shown.append(batch)
        return self.weight * batch.x.mean()

    def validation_step(self, request, index):
        self.asked.append(request)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(module, steps, folder, ckpt_path=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        limit_val_batches=options.pop("limit_val_batches", 0),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **options,
    )
    recorder = Recorder()
    trainer.fit(recorder, datamodule=module, ckpt_path=ckpt_path)
    trainer.save_checkpoint(folder / "here.ckpt")
    return recorder


def levels(**options):
    return Levels(batch_size=12, flip=True, conditional=True, prefetch=2, **options)


def test_a_resumed_run_sees_the_rest_of_the_stream(tmp_path):
    through = fit(levels(), 50, tmp_path).shown
    first = fit(levels(), 23, tmp_path).shown
    rest = fit(levels(), 50, tmp_path, ckpt_path=tmp_path / "here.ckpt").shown
    assert len(first) == 23
    for a, b in zip(through, first + rest, strict=True):
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.c.label, b.c.label)


def test_accumulation_cuts_the_same_batches_into_parts(tmp_path):
    whole = fit(levels(), 6, tmp_path).shown
    fit(levels(), 2, tmp_path, accumulate_grad_batches=3)
    path = tmp_path / "here.ckpt"
    parts = fit(levels(), 6, tmp_path, ckpt_path=path, accumulate_grad_batches=3).shown
    assert torch.equal(torch.cat([b.x for b in whole[2:]]), torch.cat([b.x for b in parts]))
    assert {len(b.x) for b in parts} == {4}


def test_lightning_sees_encoded_batches_and_whole_requests(tmp_path):
    module = levels(samples=10, sample_batch=4)
    recorder = fit(module, 1, tmp_path, limit_val_batches=1.0, num_sanity_val_steps=0, val_check_interval=1)
    x = recorder.shown[0].x
    assert isinstance(recorder.shown[0], Batch)
    assert (x.dtype, x.abs().max() <= 1) == (torch.float32, True)
    assert [len(request.z) for request in recorder.asked] == [4, 4, 2]
    assert recorder.asked[0].draws.fork().normal(torch.empty(4, 1)).shape == (4, 1)


def test_a_batch_that_cannot_be_shared_names_the_keys(tmp_path):
    keys = r"data\.batch_size=12.*trainer\.devices.*trainer\.accumulate_grad_batches"
    with pytest.raises(UserError, match=keys):
        fit(levels(), 1, tmp_path, accumulate_grad_batches=5)


class Place:
    """Where a process stands among others, as a trainer tells."""

    accumulate_grad_batches, global_step = 2, 3

    def __init__(self, rank, world):
        self.global_rank, self.world_size = rank, world


def test_processes_divide_the_global_batch():
    batches = []
    for rank, world in [(0, 1), (0, 3), (1, 3), (2, 3)]:
        module = Levels(batch_size=12, samples=5, sample_batch=64)
        module.trainer = Place(rank, world)
        batches.append(next(iter(module.train_dataloader())).x)
        assert len(module.val_dataloader()) > 0
    assert torch.equal(batches[0], torch.cat(batches[1:]))
    assert torch.equal(batches[0], seen_images(Levels(batch_size=6), 7)[6])


def seen_images(module, steps):
    return [batch.x for batch in itertools.islice(module.train_dataloader(), steps)]


# --- points and digits


def test_the_ring_is_drawn_from_its_density():
    ring = Ring(batch_size=4, modes=8, std=0.1)
    x = ring.real().double()
    assert (ring.shape, ring.classes, x.shape) == ((2,), 0, (65536, 2))
    assert torch.allclose(x.std(0), torch.tensor(0.5).double(), atol=0.005)
    assert torch.allclose(x.mean(0), torch.zeros(2).double(), atol=0.01)
    angle = torch.arange(8) * torch.pi / 4
    centres = (2 * (0.25 - 0.1**2)) ** 0.5 * torch.stack([angle.cos(), angle.sin()], 1).double()
    away = torch.cdist(x, centres).min(1).values
    assert abs(away.square().mean().sqrt() - 0.1 * 2**0.5) < 0.002
    assert ring.density is not None
    assert torch.equal(ring.real(), Ring(batch_size=4, seed=9).real())


def test_moons_are_standardised():
    moons = Moons(batch_size=4, points=4096, conditional=True)
    x = moons.real().double()
    assert torch.allclose(x.mean(0), torch.zeros(2).double(), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.full((2,), 0.5).double(), atol=1e-6)
    assert (moons.classes, moons.density) == (2, None)


def test_points_are_neither_encoded_nor_decoded():
    ring = Ring(batch_size=4, points=64)
    batch = next(iter(ring.train_dataloader()))
    assert ring.on_after_batch_transfer(batch, 0).x is batch.x
    x = torch.full((3, 2), 5.3)
    assert ring.codec.decode(x) is x


def test_digits_have_mean_zero_and_std_one_half():
    digits = Digits(batch_size=4, conditional=True)
    assert (digits.shape, digits.classes, len(digits.data)) == ((1, 8, 8), 10, 1797)
    x = (digits.real().double() - digits.offset) / digits.scale
    assert abs(x.mean()) < 1e-12
    assert abs(x.std(correction=0) - 0.5) < 1e-12
    assert len(digits.real().unique()) == 17
    assert torch.equal(digits.codec.decode(digits.codec.encode(digits.real())), digits.real())
    assert torch.bincount(digits.data.label).min() > 170


# --- CIFAR-10 and Fashion-MNIST, with small files of the same formats


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder like torchvision's, with two batches of three images, and the checksums to match."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return md5(data).hexdigest()

    values = np.random.default_rng(0).integers(0, 256, (6, 3072), dtype=np.uint8)
    sums = [
        [f"b{i}", write(f"b{i}", {"data": values[3 * i : 3 * i + 3], "labels": [i, 2, 9]})] for i in (0, 1)
    ]
    meta = {
        "filename": "meta",
        "key": "label_names",
        "md5": write("meta", {"label_names": list("abcdefghij")}),
    }
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums)
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[1:])
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    monkeypatch.setattr(datasets.CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")
    return tmp_path, torch.from_numpy(values)


def test_cifar_is_read_as_it_lies_on_disk(cifar):
    root, values = cifar
    module = CIFAR10(root=str(root), batch_size=4, conditional=True)
    module.prepare_data()
    assert torch.equal(module.real(), values.reshape(6, 3, 32, 32))  # planes R, G, B in each row
    assert module.data.label.tolist() == [0, 2, 9, 1, 2, 9]
    assert (module.flip, module.shape) == (True, (3, 32, 32))
    assert torch.equal(module.load_held_out().x, values[3:].reshape(3, 3, 32, 32))


def test_a_damaged_cifar_without_a_network_is_one_line(cifar):
    root, _ = cifar
    (root / "cifar-10-batches-py" / "b1").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"data\.root=.*cifar-10-python\.tar\.gz") as caught:
        CIFAR10(root=str(root), batch_size=4).prepare_data()
    assert "\n" not in str(caught.value)


def idx(array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


GARMENTS = np.random.default_rng(1).integers(0, 256, (5, 28, 28), dtype=np.uint8)
KINDS = np.array([3, 1, 4, 1, 5], np.uint8)


@pytest.mark.parametrize("folder", [".", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_fashion_mnist_is_read_from_either_layout(tmp_path, folder, suffix):
    pack = gzip.compress if suffix else bytes
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / folder / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(idx(GARMENTS)))
    (tmp_path / folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(KINDS)))
    (tmp_path / folder / f"t10k-images-idx3-ubyte{suffix}").write_bytes(pack(idx(GARMENTS[:2])))
    (tmp_path / folder / f"t10k-labels-idx1-ubyte{suffix}").write_bytes(pack(idx(KINDS[:2])))
    module = FashionMNIST(root=str(tmp_path), batch_size=4, conditional=True)
    assert torch.equal(module.real(), torch.from_numpy(GARMENTS)[:, None])
    assert module.data.label.tolist() == KINDS.tolist()
    assert (module.flip, module.shape) == (False, (1, 28, 28))
    assert torch.equal(module.load_held_out().x, torch.from_numpy(GARMENTS)[:2, None])


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("train-images-idx3-ubyte", idx(GARMENTS)[:-1]),
        ("train-images-idx3-ubyte", idx(GARMENTS) + b"x"),
        ("train-images-idx3-ubyte", idx(KINDS)),
        ("train-images-idx3-ubyte", b""),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(GARMENTS))[:-20]),
        ("train-images-idx3-ubyte.gz", b"<html>not found</html>"),
    ],
)
def test_a_damaged_idx_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(KINDS))
    with pytest.raises(UserError, match=f"{name}.*delete it"):
        FashionMNIST(root=str(tmp_path), batch_size=4).prepare_data()


def test_images_and_labels_must_be_as_many(tmp_path):
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx(GARMENTS))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(KINDS[:4]))
    with pytest.raises(UserError, match=r"data\.root=.*5 images but 4 labels"):
        FashionMNIST(root=str(tmp_path), batch_size=4).prepare_data()


def test_fashion_mnist_without_a_network_says_what_to_bring(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/"])
    with pytest.raises(UserError, match=r"data\.root=.*train-images-idx3-ubyte\.gz") as caught:
        FashionMNIST(root=str(tmp_path / "new"), batch_size=4).prepare_data()
    assert "\n" not in str(caught.value)


# --- held-out images


def test_held_out_digits_are_the_rest(monkeypatch):
    everything = Digits(batch_size=8).data.x
    data = Digits(batch_size=8, held_out=297)
    assert torch.equal(torch.cat([data.data.x, data.load_held_out().x]), everything)
    assert len(data.load_held_out().label) == 297
    assert Digits(batch_size=8).load_held_out() is None
    for wrong in ({"held_out": 1797}, {"held_out": -1}, {"held_out": 1000, "images": 800}):
        with pytest.raises(UserError, match=r"data\.(held_out|images)="):
            Digits(batch_size=8, **wrong)
