"""LPIPS against its definition and torchmetrics', on a VGG16 of random weights; and what it refuses."""

import io
import pickle
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchmetrics.functional.image.lpips as peer
from safetensors.torch import save_file
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from consistency.errors import UserError
from consistency.metrics import published
from consistency.metrics.perceptual import LPIPS, VGG16
from tests.conftest import CD_MOONS, run
from tests.reference.lpips import lpips

HEADS = Path(peer.__file__).parent / "lpips_models" / "vgg.pth"


def random_vgg():
    """torchvision's features, with noise for weights that keeps activations of size one."""
    net = make_layers(cfgs["D"]).requires_grad_(False)
    noise = torch.Generator().manual_seed(0)
    for name, p in net.named_parameters():
        p.copy_(
            torch.randn(p.shape, generator=noise) * (0.1 if "bias" in name else (2 / p[0].numel()) ** 0.5)
        )
    return net


VGG = random_vgg()
STATE = {f"features.{name}": p for name, p in VGG.state_dict().items()}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    """A file as torchvision's, with a (small) classifier."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({**STATE, "classifier.0.weight": torch.zeros(2, 2)}, path)
    return path


def images(n=2, size=32, channels=3):
    """Two batches."""
    noise = torch.Generator().manual_seed(1)
    a = torch.rand(n, channels, size, size, generator=noise) * 2 - 1
    return a, (a + 0.3 * torch.randn(a.shape, generator=noise)).clamp(-1, 1)


def pooled(average):
    """VGG with other pooling, in double precision."""
    layers = [nn.AvgPool2d(2) if average and isinstance(m, nn.MaxPool2d) else m for m in VGG]
    return nn.Sequential(*[type(m)(inplace=False) if isinstance(m, nn.ReLU) else m for m in layers])


@pytest.mark.parametrize("average", [True, False])
def test_it_is_its_definition(backbone, average):
    a, b = images()
    heads = list(torch.load(HEADS, map_location="cpu", weights_only=True).values())
    VGG.double()
    expected = lpips(pooled(average), heads, a, b)
    VGG.float()
    ours = LPIPS(backbone, average_pooling=average, resize=32)(a, b)
    assert ours.tolist() == pytest.approx(expected, rel=1e-4)
    assert ours.shape == (2,)
    assert ours.dtype == torch.float32
    assert min(expected) > 0.01


def test_it_is_torchmetrics_with_maximum_pooling(backbone):
    theirs = peer._LPIPS(net="vgg", pnet_rand=True)
    for stage in range(1, 6):
        for name, m in getattr(theirs.net, f"slice{stage}").named_children():
            m.load_state_dict(VGG[int(name)].state_dict())
    a, b = images()
    ours = LPIPS(backbone, average_pooling=False, resize=32)(a, b)
    assert ours.tolist() == pytest.approx(theirs(a, b).flatten().tolist(), rel=1e-4)


class TestSize:
    def seen(self, backbone, size, **options):
        """Side of the images that reach the network."""
        distance = LPIPS(backbone, **options)
        return distance.prepare(torch.zeros(1, 3, size, size)).shape[-1]

    @pytest.mark.parametrize(("size", "seen"), [(32, 224), (255, 224), (256, 256), (300, 300)])
    def test_small_images_are_enlarged(self, backbone, size, seen):
        assert self.seen(backbone, size) == seen

    @pytest.mark.parametrize("size", [32, 300])
    def test_or_all_are_brought_to_one_size(self, backbone, size):
        assert self.seen(backbone, size, always_resize=True) == 224

    def test_bilinearly(self, backbone):
        x = torch.arange(32.0).expand(1, 3, 32, 32) / 32
        wide = LPIPS(backbone, resize=64).prepare(x)
        assert torch.allclose(wide[0, 0, 0, 1:-1].diff(), torch.full((61,), 1 / 64))

    def test_grey_images_have_three_channels(self, backbone):
        a, b = images(channels=1)
        distance = LPIPS(backbone, resize=32)
        assert torch.equal(distance(a, b), distance(a.repeat(1, 3, 1, 1), b.repeat(1, 3, 1, 1)))


class TestTraining:
    def test_the_gradient_reaches_the_first_image_only(self, backbone):
        a, b = (x.requires_grad_() for x in images())
        distance = LPIPS(backbone, resize=32)
        distance(a, b).sum().backward()
        assert a.grad.abs().sum() > 0
        assert b.grad is None
        assert not any(p.requires_grad for p in distance.net.parameters())
        assert not distance.net.training

    def test_the_gradient_is_the_slope(self, backbone):
        a, b = images(n=1)
        distance = LPIPS(backbone, resize=32)
        a.requires_grad_()
        (g,) = torch.autograd.grad(distance(a, b).sum(), a)
        step = 1e-3 * g / g.norm()
        rise = (distance(a + step, b) - distance(a - step, b)).item()
        assert rise == pytest.approx(2e-3 * g.norm().item(), rel=0.02)

    @pytest.mark.parametrize("value", [-1.0, 0.0])
    def test_identical_images_are_at_zero_with_a_gradient_of_zero(self, backbone, value):
        a = torch.full((2, 3, 32, 32), value, requires_grad=True)
        d = LPIPS(backbone, resize=32)(a, a.detach().clone())
        d.sum().backward()
        assert d.tolist() == [0, 0]
        assert a.grad.abs().sum() == 0  # and not NaN

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_precision_is_its_own(self, backbone, dtype):
        a, b = (x.to(dtype) for x in images())
        distance = LPIPS(backbone, resize=32)
        with torch.autocast("cpu", torch.bfloat16):
            inside = distance(a, b)
        assert inside.dtype == torch.float32
        assert torch.equal(inside, distance(a.float(), b.float()))

    def test_it_is_moved_outside_of_inference_mode(self, backbone, monkeypatch):
        """Weights that validation moves to another device would refuse to take part in training."""
        distance, modes = LPIPS(backbone, resize=32), []
        monkeypatch.setattr(distance.net, "to", lambda _: modes.append(torch.is_inference_mode_enabled()))
        with torch.inference_mode():
            distance(*images(n=1))
        assert modes == [False]

    def test_it_is_no_module_of_its_user_and_draws_no_numbers(self, backbone):
        before = torch.get_rng_state()
        user = nn.Module()
        user.distance = LPIPS(backbone)
        assert list(user.state_dict()) == []
        assert torch.equal(before, torch.get_rng_state())


def legacy(state, path):
    """A file as torch wrote before 1.6, when torchvision's was written."""
    torch.save(state, path, _use_new_zipfile_serialization=False)


@pytest.mark.parametrize(("name", "save"), [("v.safetensors", save_file), ("v.pth", legacy)])
def test_formats_without_a_classifier(backbone, tmp_path, name, save):
    save(STATE, tmp_path / name)
    a, b = images()
    assert torch.equal(LPIPS(tmp_path / name, resize=32)(a, b), LPIPS(backbone, resize=32)(a, b))


def refusal(*args, **options):
    """What LPIPS says when it is built."""
    with pytest.raises(UserError) as caught:
        LPIPS(*args, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


class TestRefusals:
    def spoilt(self, tmp_path, **changes):
        """Answer to a file with other tensors."""
        state = {k: v for k, v in (STATE | changes).items() if v is not None}
        torch.save(state, tmp_path / "vgg.pth")
        return refusal(tmp_path / "vgg.pth")

    def test_a_tensor_that_is_not_there(self, tmp_path):
        said = self.spoilt(tmp_path, **{"features.17.weight": None})
        assert "features.17.weight is absent" in said
        assert VGG16.url in said

    def test_a_tensor_of_another_shape(self, tmp_path):
        said = self.spoilt(tmp_path, **{"features.0.weight": torch.zeros(64, 1, 3, 3)})
        assert "features.0.weight is [64, 1, 3, 3]" in said
        assert "[64, 3, 3, 3]" in said

    def test_numbers_of_another_kind(self, tmp_path):
        said = self.spoilt(tmp_path, **{"features.0.bias": torch.zeros(64, dtype=torch.int64)})
        assert "features.0.bias" in said

    def test_a_file_that_holds_code(self, tmp_path, capsys):
        torch.save({"features.0.weight": Malicious()}, tmp_path / "a.pth")
        (tmp_path / "b.pth").write_bytes(pickle.dumps(Malicious()))
        for name in ("a.pth", "b.pth"):
            assert "distance.backbone" in refusal(tmp_path / name)
        assert "executed" not in capsys.readouterr().out

    @pytest.mark.parametrize("name", ["cut.pth", "cut.safetensors"])
    def test_a_file_that_ends_early(self, tmp_path, name):
        whole = io.BytesIO()
        torch.save({"features.0.weight": torch.zeros(64, 3, 3, 3)}, whole)
        (tmp_path / name).write_bytes(whole.getvalue()[:2000])
        assert name in refusal(tmp_path / name)

    def test_a_list_of_tensors(self, tmp_path):
        torch.save([torch.zeros(3)], tmp_path / "vgg.pth")
        assert "vgg.pth" in refusal(tmp_path / "vgg.pth")

    def test_a_file_that_is_not_there(self, tmp_path):
        said = refusal(tmp_path / "no.pth")
        assert "distance.backbone" in said
        assert "distance=pseudo_huber" in said

    def test_no_network(self, tmp_path, monkeypatch):
        def offline(*_, **__):
            raise URLError("no route")

        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
        said = refusal()
        assert str(tmp_path / "checkpoints" / "vgg16-397923af.pth") in said
        assert VGG16.url in said

    def test_a_cached_file_is_found_and_must_be_what_its_name_says(self, tmp_path, monkeypatch, backbone):
        (tmp_path / "checkpoints").mkdir()
        cached = tmp_path / "checkpoints" / "vgg16-397923af.pth"
        cached.symlink_to(backbone)
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        with pytest.raises(UserError, match=r"vgg16-397923af\.pth is damaged: its sha256 .* 397923af"):
            LPIPS(resize=32)
        with pytest.raises(UserError, match="is damaged"):
            LPIPS(cached, resize=32)
        monkeypatch.setattr(published, "sha256", lambda path: "397923af0123")
        assert LPIPS(resize=32)(*images(n=1)) > 0

    def test_a_size_that_vgg_cannot_halve(self, backbone):
        assert "distance.resize=8" in refusal(backbone, resize=8)

    @pytest.mark.parametrize("shape", [(4, 2), (1, 4, 8, 8)])
    def test_what_is_no_image(self, backbone, shape):
        x = torch.zeros(shape)
        with pytest.raises(UserError, match="distance=lpips"):
            LPIPS(backbone, resize=32)(x, x)


@pytest.mark.slow
def test_a_student_trained_on_it_is_evaluated_without_it(tmp_path):
    torch.save(STATE, tmp_path / "vgg16.pth")
    words = [
        *CD_MOONS,
        "data=digits",
        "net=mlp",
        "net.width=32",
        "data.samples=64",
        "trainer=cpu",
    ]
    words += ["distance=lpips", f"distance.backbone={tmp_path}/vgg16.pth", "distance.resize=32"]
    words += ["trainer.max_steps=2", "data.batch_size=8", 'teacher_run.overrides=["trainer.max_steps=2"]']
    trained = run("train.py", tmp_path / "cd", *words, "teacher_run.experiment=edm_digits")
    assert trained.status == 0, trained.err
    (tmp_path / "vgg16.pth").unlink()
    alone = run(
        "eval.py", tmp_path / "eval", "task.count=4", f"ckpt_path={tmp_path}/cd/checkpoints/last.ckpt"
    )
    assert alone.status == 0, alone.err
