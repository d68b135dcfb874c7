"""`import consistency as cm`: ten names, loaded without Lightning, that make what the commands make."""

import re
import subprocess
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

import consistency as cm
from consistency.codec.identity import codec_digest
from consistency.codec.pixels import Pixels
from consistency.codec.points import Points
from consistency.edits import Denoise, Restore, Stroke, Vary, inpaint
from consistency.files.upgrade import DIGITS
from consistency.library.opening import samplers_of, sigma_of
from consistency.lit.data.digits import Digits
from consistency.model.maps import ROLES
from consistency.sampling.operators import BoxSuperResolution
from consistency.sampling.samplers import MultiStep
from consistency.schedule.sigma import Sigma
from consistency.tasks.make.edit import Edit
from consistency.tasks.make.sample import Sample
from consistency.teachers.checkpoint import read_named
from tests.conftest import ROOT
from tests.sessions import checkpoint, composed, save_edited, session

WEIGHTS = ROOT / "data" / "weights"
README = (ROOT / "README.md").read_text()
(QUICK,) = re.findall(r"^```python\n(import consistency.*?)^```$", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def digits():
    return cm.load(WEIGHTS / "digits.safetensors")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labelled")
    return checkpoint(folder, "data.conditional=true")


class TestNames:
    def test_the_readme_lists_them(self):
        assert sorted(re.findall(r"^\| `cm\.(\w+)` \|", README, re.MULTILINE)) == sorted(cm.__all__)
        assert len(cm.__all__) <= 10

    def test_all_of_them_are_there(self):
        assert all(getattr(cm, name) is not None for name in cm.__all__)
        assert {*cm.__all__} <= {*dir(cm)}
        assert {cm.Denoiser, cm.Consistency, cm.FlowMap} == {*ROLES.values()}
        with pytest.raises(AttributeError, match="nothing"):
            _ = cm.nothing

    def test_the_quick_start_runs_as_it_is_written(self, tmp_path, monkeypatch):
        assert len([line for line in QUICK.splitlines() if line.strip()]) <= 9
        (tmp_path / "data").symlink_to(ROOT / "data")
        monkeypatch.chdir(tmp_path)
        made: dict = {}
        exec(compile(QUICK, "README.md", "exec"), made)
        assert (tmp_path / "samples.png").is_file()
        assert made["once"].shape == made["twice"].shape == made["alike"].shape == (64, 1, 8, 8)
        assert made["once"].unique().numel() > 100

    def test_experiments_are_those_of_the_command_line(self):
        found = cm.experiments()
        assert found.keys() == {path.stem for path in (ROOT / "configs" / "experiment").glob("*.yaml")}
        assert all(found.values())


def test_neither_lightning_nor_hydra_is_imported(labelled):
    """Nor by loading, sampling and editing; in a process of its own."""
    code = f"""
import sys
import consistency as cm
assert "torch" not in sys.modules
for path in {[str(WEIGHTS / "digits.safetensors"), str(labelled)]}:
    model = cm.load(path)
    labels = 3 if model.classes else None
    model.edit(model.sample(2, steps=2, labels=labels), cm.edits.Vary(0.5), labels=labels)
cm.experiments()
heavy = {{"lightning", "pytorch_lightning", "hydra", "omegaconf", "torchmetrics", "scipy", "sklearn"}}
print(sorted(heavy & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


class TestModel:
    def test_what_a_file_is(self, digits):
        assert (digits.role, digits.shape, digits.classes) == ("consistency function", (1, 8, 8), 0)
        assert digits.sample_shape == (1, 8, 8)
        assert digits.sigma == Sigma()
        assert isinstance(digits.codec, Pixels)
        assert digits.codec.offset == pytest.approx(77.85, abs=0.01)
        assert [*digits.samplers] == ["1step", "2step", "4step"]
        where = digits.provenance
        assert (where.experiment, where.step, where.weights) == ("cd_digits", 6000, "ema")
        assert where.config["model"]["_target_"] == "consistency.model.maps.Consistency"
        assert not any(p.requires_grad for p in digits.f.parameters())
        assert not digits.f.training

    def test_points(self):
        model = cm.load(WEIGHTS / "moons.safetensors")
        assert model.codec == Points()
        x = model.sample(5, steps=2)
        assert (x.shape, x.dtype) == ((5, 2), torch.float32)
        with pytest.raises(cm.UserError, match="model of points"):
            model.edit(x, Vary(0.5))

    def test_a_run_directory_and_its_checkpoint_are_the_same(self, labelled):
        one, two = cm.load(labelled), cm.load(labelled.parent.parent)
        assert one.provenance == two.provenance
        assert torch.equal(one.sample(3), two.sample(3))

    def test_it_is_the_map_that_tasks_have(self, labelled, tmp_path):
        t, model = session(tmp_path, labelled).trained, cm.load(labelled)
        assert t.provenance == replace(model.provenance)
        assert (t.shape, t.classes, t.sigma) == (model.shape, model.classes, model.sigma)
        assert t.samplers == t.own == model.samplers
        assert codec_digest(t.codec) == codec_digest(t.data.codec) == codec_digest(model.codec)

    def test_loading_leaves_the_generator_where_it_is(self, labelled):
        before = torch.get_rng_state()
        cm.load(labelled)
        assert torch.equal(torch.get_rng_state(), before)

    def test_calls(self, digits):
        x = 80 * torch.randn(3, 1, 8, 8)
        one, each = digits(x, 80.0), digits(x, torch.full((3,), 80.0, dtype=torch.float64))
        assert torch.equal(one, each)
        assert torch.equal(one, digits.f(x, torch.full((3,), 80.0, dtype=torch.float64)))
        x = x.requires_grad_()
        digits(x, 1.0).sum().backward()
        assert x.grad is not None
        with pytest.raises(cm.UserError, match=r"net\.classes"):
            digits(x, 1.0, cm.Condition(label=torch.zeros(3, dtype=torch.long)))


class TestSamples:
    @pytest.mark.parametrize("name", ["1step", "2step"])
    def test_they_are_those_of_the_task_to_the_bit(self, name, labelled, tmp_path):
        asked = session(tmp_path / "out", labelled)
        Sample(count=7, batch=3, seed=5, samplers=[name], labels=[3, 1], array=True, nearest=0)(asked)
        made = torch.from_numpy(np.load(tmp_path / "out" / f"{name}.npy"))
        sampled = cm.load(labelled).sample(7, steps=int(name[0]), seed=5, labels=[3, 1], batch=3)
        assert torch.equal(sampled, made)

    def test_sample_i_is_the_same_for_every_count_and_batch(self, digits):
        many = digits.sample(9, seed=2)
        assert torch.equal(digits.sample(4, seed=2), many[:4])
        assert torch.equal(digits.sample(9, seed=2, batch=2), many)
        assert not torch.equal(digits.sample(9, seed=3), many)

    def test_classes_are_taken_in_turn(self, labelled):
        model = cm.load(labelled)
        assert model.classes == 10
        assert torch.equal(model.sample(10)[3:4], model.sample(4, labels=3)[3:4])
        assert torch.equal(model.sample(10, labels=range(10)), model.sample(10))
        for labels in (10, -1, [0, 10], []):
            with pytest.raises(cm.UserError, match="classes of this model are 0 to 9"):
                model.sample(2, labels=labels)

    def test_a_sampler_of_ones_own(self, digits):
        sampler = MultiStep([80.0, 3.0, 0.5])
        made = digits.sample(4, sampler=sampler)
        assert torch.equal(digits.sample(4, steps=3, sampler=sampler), made)
        assert not torch.equal(made, digits.sample(4, steps=2))

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"steps": 3}, r"steps=3: .* 1 \(1step\), 2 \(2step\), 4 \(4step\)"),
            ({"steps": 2, "sampler": MultiStep([80.0])}, "steps=2 and a sampler of 1 calls"),
            ({"labels": 0}, "none: it was trained without labels"),
            ({"seed": -1}, "seed"),
            ({"batch": 0}, "batch"),
            ({"count": 0}, "count"),
        ],
    )
    def test_what_it_cannot_do_is_said_in_a_line(self, digits, words, said):
        with pytest.raises(cm.UserError, match=said):
            digits.sample(**{"count": 2, **words})


class TestEdits:
    @pytest.mark.parametrize(
        "change",
        [Vary(0.5), Stroke(1.0), Restore(partial(BoxSuperResolution, factor=2)), Denoise(0.3, add=True)],
        ids=repr,
    )
    def test_they_are_those_of_the_task(self, change, labelled, tmp_path):
        asked, model = session(tmp_path / "out", labelled), cm.load(labelled)
        found = {}

        class Kept(Edit):
            def _write_images(self, directory, inputs, rows, table):
                found.update(u=inputs.u, after=torch.stack([row[1] for row in rows]))
                return super()._write_images(directory, inputs, rows, table)

        Kept(change, samples=1, rows=3, count=3, seed=4, levels=5, label=3)(asked)
        assert torch.equal(model.edit(found["u"], change, seed=4, levels=5, labels=3), found["after"])
        with pytest.raises(cm.UserError, match="10 classes: name those of the images with labels="):
            model.edit(found["u"], change)

    def test_inpainting_keeps_what_is_known(self, digits):
        images = digits.sample(5)
        known = torch.zeros(8, 8, dtype=torch.bool)
        known[:, :4] = True
        made = digits.edit(images, inpaint(known), levels=6, batch=2)
        assert torch.equal(made[..., :4], images[..., :4])
        assert not torch.equal(made[..., 4:], images[..., 4:])
        assert torch.equal(digits.edit(images[:2], inpaint(known), levels=6), made[:2])

    @pytest.mark.parametrize(
        ("images", "said"),
        [
            (torch.zeros(2, 1, 8, 8), r"torch\.float32 \[2, 1, 8, 8\], and this model's are torch\.uint8"),
            (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), r"\[B, 1, 8, 8\]"),
            (torch.zeros(0, 1, 8, 8, dtype=torch.uint8), r"\[B, 1, 8, 8\]"),
        ],
    )
    def test_other_images_are_refused(self, digits, images, said):
        with pytest.raises(cm.UserError, match=said):
            digits.edit(images, Vary(0.5))

    def test_a_mask_of_another_size_is_refused(self, digits):
        with pytest.raises(cm.UserError, match=r"known is torch\.bool \[4, 4\]"):
            digits.edit(digits.sample(1), inpaint(torch.ones(4, 4, dtype=torch.bool)))

    def test_a_picture(self, digits, tmp_path):
        cm.grid(digits.sample(3)).save(tmp_path / "x.png")
        assert cm.grid(digits.sample(100), least=10, columns=20).width == 20 * 9 + 1
        for wrong in (torch.zeros(2, 1, 8, 8), torch.zeros(2, 3), torch.zeros(1, 2, 8, 8, dtype=torch.uint8)):
            with pytest.raises(cm.UserError, match="grid"):
                cm.grid(wrong)


class TestRefusals:
    """What a file holds is checked before anything of it is built."""

    @pytest.fixture
    def content(self, labelled):
        return torch.load(labelled, weights_only=True)

    def refused(self, content, path, said, **words):
        save_edited(content, path)
        with pytest.raises(cm.UserError, match=said):
            cm.load(path, **words)

    def test_a_path_that_holds_nothing(self, tmp_path):
        with pytest.raises(cm.UserError, match=rf"^path={tmp_path}/none: no such file"):
            cm.load(tmp_path / "none")

    def test_weights_that_it_has_not(self, labelled):
        with pytest.raises(cm.UserError, match="weights=ema is not in the checkpoint"):
            cm.load(labelled, weights="ema")

    def test_a_class_of_a_stranger(self, content, tmp_path):
        content["config"]["model"]["net"]["_target_"] = "strangers.Net"
        content["config"]["trust"] = ["strangers"]
        self.refused(content, tmp_path / "x.ckpt", r"would call strangers\.Net .*trust=\[strangers\]")

    def test_a_codec_that_is_not_that_of_its_training(self, content, tmp_path):
        content["data"] = {"codec": codec_digest(Pixels(1.0, 2.0))}
        self.refused(content, tmp_path / "x.ckpt", "was trained with another codec")

    @pytest.mark.parametrize(("key", "value"), [("shape", [8, 8]), ("classes", -1), ("shape", None)])
    def test_a_network_for_no_data(self, content, tmp_path, key, value):
        for node in (content["config"]["net"], content["config"]["model"]["net"]):
            node[key] = value
        self.refused(content, tmp_path / "x.ckpt", "no shape and no number of classes")

    def test_samplers_of_another_role(self, content, tmp_path):
        node = {"_target_": "consistency.sampling.ode.Heun", "sigmas": [80.0, 1.0, 0.002]}
        content["config"]["module"]["samplers"] = {"heun": node}
        self.refused(content, tmp_path / "x.ckpt", r"samplers\.heun")

    def test_sigmas_that_are_none(self, content, tmp_path):
        content["config"]["sigma"]["min"] = "low"
        self.refused(content, tmp_path / "x.ckpt", "sigma in its config has a value that is no number")


def test_nothing_of_training_is_built(labelled, tmp_path):
    """A distance, an optimizer and a batch size that make no sense do not matter to a model."""
    content = torch.load(labelled, weights_only=True)
    content["config"]["module"]["objective"]["distance"] = {
        "_target_": "consistency.metrics.perceptual.LPIPS",
        "backbone": "nowhere.pth",
    }
    content["config"]["module"]["optimizer"]["lr"] = -1.0
    content["config"]["data"]["batch_size"] = -5
    save_edited(content, tmp_path / "x.ckpt")
    assert torch.equal(cm.load(tmp_path / "x.ckpt").sample(2), cm.load(labelled).sample(2))


def test_names_of_classes_come_from_the_file(labelled, tmp_path):
    content = torch.load(labelled, weights_only=True)
    names = [f"class {i}\x1b[31m" for i in range(10)]
    plain = tuple(f"class {i}" for i in range(10))
    for kept, known in ((names, plain), (names[:3], None), ("0123456789", None)):
        content["data"] = {"names": kept}
        save_edited(content, tmp_path / "x.ckpt")
        assert cm.load(tmp_path / "x.ckpt").provenance.classes == known


def test_what_networks_see_of_digits_was_said_by_their_class(labelled, tmp_path):
    assert Digits(batch_size=1).codec == Pixels(**DIGITS)
    assert {**DIGITS}.items() <= composed("train", "data=digits").data.items()
    content = torch.load(labelled, weights_only=True)
    for key in ("offset", "scale"):
        del content["config"]["data"][key]
    save_edited(content, tmp_path / "x.ckpt")
    assert codec_digest(cm.load(tmp_path / "x.ckpt").codec) == codec_digest(cm.load(labelled).codec)


def test_samplers_and_levels_are_those_of_the_config():
    config = read_named(WEIGHTS / "digits.safetensors")[1]["config"]
    assert samplers_of(config)["2step"] == MultiStep([80.0, 0.821])
    assert sigma_of(config) == Sigma(0.002, 80.0, 7.0, 0.5)
