"""What networks see: pixels and points as ever, and a model in another space from training to exports."""

import json
import math
from hashlib import sha256

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from consistency.build import build
from consistency.codec.identity import codec_digest, marks
from consistency.codec.pixels import Pixels
from consistency.codec.points import Points
from consistency.edits import Denoise, Restore, Stroke, Vary
from consistency.errors import UserError
from consistency.export.diffusers import Diffusers
from consistency.export.model import Outgoing
from consistency.export.onnx import Half, Onnx
from consistency.export.torch_program import TorchExport
from consistency.export.web import Web
from consistency.export.weights import Safetensors
from consistency.files.upgrade import FORMER_MAP
from consistency.lit.data.digits import Digits
from consistency.lit.data.points import Ring
from consistency.metrics import protocol
from consistency.metrics.fidelity import frechet
from consistency.sampling.operators import Grey
from consistency.sampling.samplers import OneStep
from consistency.tasks.make.edit import Edit
from consistency.tasks.make.export import Export
from consistency.tasks.make.interpolate import Interpolate
from consistency.tasks.make.invert import Invert
from consistency.tasks.make.sample import Sample
from consistency.tasks.measure.fidelity import Fidelity
from consistency.tasks.measure.gap import Gap
from consistency.tasks.measure.ladder import Ladder, Search
from consistency.tasks.teacher import teacher_of
from consistency.teachers.checkpoint import checkpoint as teacher
from tests.codecs import Blocks
from tests.sessions import checkpoint, composed, outgoing, save_edited, session, train_here

LEVELS = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
BLOCKS = ["+data.codec._target_=tests.codecs.Blocks", "+data.codec.offset=77.85", "+data.codec.scale=191.7"]
TRUST = ["trust=[tests]"]
TINY = ["net.width=32", "net.blocks=1", "threads=1", "trainer=cpu", "logger=none", "data.samples=64"]
SHORT = [*TINY, "curriculum=constant", "trainer.val_check_interval=2", "trainer.max_steps=4"]
FAST = {"batches": (1,), "patience": 0.01}
CODEC = Blocks(77.85, 191.7)
NAMED = r"data\.codec=Blocks"


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    """A network of (4, 4, 4) for digits of (1, 8, 8), trained for four steps."""
    folder = tmp_path_factory.mktemp("blocks")
    train_here(folder, *BLOCKS, *SHORT)
    return folder / "checkpoints" / "last.ckpt"


@pytest.fixture
def opened(blocks, tmp_path):
    return session(tmp_path / "eval", blocks, overrides=TRUST)


def opened_at(*place, **words):
    """What a call of eval.py opens."""
    return session(*place, **words).trained


def own(t, n=4, seed=0):
    """The first samples of a model by one call, as people see them; from the noise of task=sample."""
    from consistency.data.loader import RequestLoader

    (request,) = RequestLoader(n, t.shape, n, seed)
    with torch.no_grad():
        return t.codec.decode(OneStep([80.0])(t.f, request.z))


def images(folder):
    return torch.stack(
        [torch.from_numpy(np.array(Image.open(p)))[None] for p in sorted(folder.glob("*.png"))]
    )


@pytest.mark.parametrize("codec", [Pixels(), Pixels(77.85, 191.7), Blocks(), CODEC], ids=repr)
def test_all_levels_come_back_and_shapes_are_told(codec):
    z = codec.encode(LEVELS)
    assert z.dtype == torch.float32
    assert torch.equal(codec.decode(z), LEVELS)
    assert tuple(z.shape[1:]) == codec.encoded((1, 8, 8))
    assert codec.decoded(z.shape[1:]) == (1, 8, 8)
    json.dumps(codec.describe())


def test_pixels_are_what_data_made_of_them():
    """The formulas of the data set before there were codecs, to the bit."""
    u, x = LEVELS, 2 * torch.randn(64, 3, 8, 8)
    for offset, scale in ((127.5, 127.5), (77.8537232192543, 191.70181510236651)):
        codec = Pixels(offset, scale)
        assert torch.equal(codec.encode(u), (u.float() - offset) / scale)
        there = (x.float() * scale + (offset + 0.5)).clamp(0, 255).to(torch.uint8)
        assert torch.equal(codec.decode(x), there)
        assert codec.range == tuple(codec.encode(torch.tensor([0, 255])).tolist())


def test_points_are_not_touched():
    x = torch.randn(5, 2, dtype=torch.float64)
    assert Points().encode(x) is x
    assert Points().decode(x) is x
    assert Points().encoded((2,)) == Points().decoded((2,)) == (2,)


@pytest.mark.parametrize(
    ("codec", "shape"), [(Pixels(), (2,)), (Points(), (1, 8, 8)), (Blocks(), (1, 7, 8))], ids=repr
)
def test_data_that_a_codec_does_not_take_are_refused(codec, shape):
    with pytest.raises(UserError, match=rf"data\.codec={type(codec).__name__} is for .*{shape[-1]}\]"):
        codec.encoded(shape)


def test_cards_keep_the_marks_that_were_published():
    """The two numbers that the digest of a card has always had, in its order; for points those of pixels."""
    assert list(marks(Pixels(1.0, 2.0)).items()) == [("offset", 1.0), ("scale", 2.0)]
    assert list(marks(Points()).items()) == [("offset", 127.5), ("scale", 127.5)]
    assert marks(CODEC) == {"codec": codec_digest(CODEC)} != marks(Blocks())
    assert (
        len({codec_digest(codec) for codec in (Pixels(), Points(), Pixels(1.0, 2.0), CODEC, Blocks())}) == 5
    )


def test_data_choose_pixels_or_points_without_reading_anything(monkeypatch):
    digits = Digits(batch_size=4, offset=3.0, scale=2.0)
    digits.expect((1, 8, 8), 0)
    monkeypatch.setattr(Digits, "load", None)
    assert digits.codec == Pixels(3.0, 2.0)
    ring = Ring(batch_size=4)
    ring.expect((2,), 0)
    assert ring.codec == Points()
    other = Digits(batch_size=4, codec=CODEC)
    other.expect((4, 4, 4), 0)
    assert (other.shape, other.stored_shape) == ((4, 4, 4), (1, 8, 8))


class Doubled(Points):
    def encode(self, u, draws=None):
        return 2 * u

    def decode(self, z):
        return z / 2

    def describe(self):
        return {"codec": "Doubled"}


def test_a_density_of_points_is_not_that_of_what_networks_see_in_another_space():
    assert Ring(batch_size=4, points=64).density is not None
    other = Ring(batch_size=4, points=64, codec=Doubled())
    assert other.density is None
    batch = next(iter(other.train_dataloader()))
    assert torch.equal(other.on_after_batch_transfer(batch, 0).x, 2 * batch.x)


class TestTraining:
    def test_the_network_is_for_what_it_sees_and_pictures_are_decoded(self, blocks):
        run = blocks.parent.parent
        kept = torch.load(blocks, weights_only=True)
        assert kept["config"]["net"]["shape"] == [4, 4, 4]
        assert (kept["data"]["shape"], kept["data"]["codec"]) == ([1, 8, 8], codec_digest(CODEC))
        with Image.open(run / "samples" / "1step.png") as grid:
            assert grid.width % (8 * 9 + 1) == 0  # 64 images of 8x8 with a line between them
        assert {"FD(digits)/1step", "FD(digits)/floor"} <= json.loads((run / "result.json").read_text())[
            "metrics"
        ].keys()

    def test_it_learns_from_encoded_images(self):
        data, _ = build(composed("train", *BLOCKS, *TINY, "+data.flip=true"))
        batch = next(iter(data.train_dataloader()))
        assert torch.equal(data.on_after_batch_transfer(batch, 0).x, CODEC.encode(batch.x))
        some = data.some(5, 0, torch.device("cpu"))
        assert (data.codec.decode(some.x).shape, some.x.shape) == ((5, 1, 8, 8), (5, 4, 4, 4))

    def test_a_run_goes_on_with_its_codec_alone(self, blocks, tmp_path):
        words = [*BLOCKS, *SHORT[:-1], "trainer.max_steps=6", f"ckpt_path={blocks}"]
        assert train_here(tmp_path / "on", *words)["steps"] == 6
        kept = torch.load(blocks, weights_only=True)
        kept["data"]["codec"] = codec_digest(
            Blocks()
        )  # as if weights of a codec had changed under the same config
        save_edited(kept, tmp_path / "other.ckpt")
        words[-1] = f"ckpt_path={tmp_path / 'other.ckpt'}"
        with pytest.raises(UserError, match="data: the codec, which says what networks see, is not that of"):
            train_here(tmp_path / "off", *words)

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["method=ict", "data=ring", "budget=points", *BLOCKS],
             r"Blocks is for images of even sides, and samples are \[2\]"),
            (["+data.codec._target_=consistency.codec.points.Points"], r"Points is for points .*8, 8\]"),
            ([*BLOCKS, "experiment=edm_digits", "augmentation=edm"], rf"augmentation: NonLeaky .*{NAMED}"),
        ],
    )  # fmt: skip
    def test_what_does_not_fit_is_refused(self, tmp_path, words, said):
        with pytest.raises(UserError, match=said):
            train_here(tmp_path / "run", *words, *SHORT)

    def test_a_perceptual_distance_is_of_pixels(self, monkeypatch):
        monkeypatch.setattr("consistency.metrics.perceptual.LPIPS.__init__", lambda self, **words: None)
        config = composed("train", *BLOCKS, *TINY, "distance=lpips", "distance.backbone=x")
        with pytest.raises(UserError, match=rf"distance: LPIPS is made for pixels, .*{NAMED} makes of them"):
            build(config)

    def test_a_teacher_of_another_space_is_refused(self, blocks, tmp_path):
        taught = tmp_path / "taught"
        train_here(taught, "experiment=edm_digits", *BLOCKS, *SHORT)
        assert teacher(taught, trust=["tests"]).codec_sha256 == codec_digest(CODEC)
        words = ["experiment=cd_digits", *SHORT, f"teacher.path={taught}", "teacher.trust=[tests]"]
        assert train_here(tmp_path / "same", *words, *BLOCKS)["steps"] == 4
        other = [*BLOCKS[:1], "+data.codec.offset=1"]  # of the same shape
        for begin in (words, ["experiment=ict_digits", "start=teacher", *words[1:]]):
            with pytest.raises(UserError, match=r"codec of the data, Blocks\(offset=1, .* the teacher"):
                train_here(tmp_path / "other", *begin, *other)
        student = tmp_path / "same" / "checkpoints" / "last.ckpt"
        assert teacher_of(opened_at(tmp_path / "eval", student, overrides=TRUST)) is not None
        train_here(tmp_path / "elsewhere", "experiment=edm_digits", *other, *SHORT)
        named = [*TRUST, f"+override.module.teacher.path={tmp_path / 'elsewhere'}"]
        with pytest.raises(UserError, match=r"codec of the data, Blocks\(offset=77.85, .* the teacher"):
            teacher_of(opened_at(tmp_path / "eval", student, overrides=named))


class TestTasks:
    def test_samples_are_decoded(self, opened):
        Sample(count=4, batch=3, samplers=["1step"], files=True, array=True, nearest=2)(opened)
        expected = own(opened.trained)
        assert torch.equal(images(opened.directory / "1step"), expected)
        assert np.array_equal(np.load(opened.directory / "1step.npy"), expected.numpy())
        assert (opened.directory / "1step-nearest.png").is_file()

    def test_fidelity_is_of_decoded_images(self, opened):
        t = opened.trained
        outcome = Fidelity(count=50, batch=50)(opened)
        extractor = t.judge.extractor
        ours, real = (extractor(u).double() for u in (own(t, 50), t.data.real()))
        assert outcome.metrics["FD(digits)/1step"] == pytest.approx(frechet(ours, real), rel=1e-3)

    def test_its_card_names_the_codec(self, opened, ckpt, tmp_path):
        t = opened.trained
        found = {n["card"]["model"]["denoiser_sha256"] for n in Fidelity(count=8)(opened).numbers}
        meaning = [{**t.provenance.config["model"], "_target_": FORMER_MAP}, codec_digest(CODEC)]
        assert found == {sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()}

    def test_the_card_of_pixels_is_as_ever(self, ckpt, tmp_path):
        t = opened_at(tmp_path, ckpt)
        node = {**t.provenance.config["model"], "_target_": FORMER_MAP}
        meaning = [node, t.data.offset, t.data.scale]
        found = protocol.model(None, "", 0, "", t.provenance.config["model"], t.codec)["denoiser_sha256"]
        assert found == sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()

    def test_gaps_and_ladders_are_measured(self, opened):
        assert all(map(math.isfinite, Gap(count=8)(opened).metrics.values()))
        few = Search(levels=6, budget=2, scan=1, count=20)
        ladder = Ladder(calls=(1, 2), count=20, batch=20, search=few, largest=4, patience=0.01)
        assert math.isfinite(ladder(opened).metrics["FD(digits)/1step"])

    def test_what_means_something_in_any_space_is_decoded(self, opened):
        t = opened.trained
        u = t.data.real()[[0, -1]]
        assert (t.plan(4).low, t.plan(4).high) == (-float("inf"), float("inf"))
        Edit(Vary(0.01), samples=1, rows=2, count=2)(opened)
        made = images(opened.directory / "edited")
        assert made.shape == u.shape
        assert (made.float() - u.float()).abs().max() < 60  # hardly any noise: nearly the images themselves
        Edit(Stroke(1.0), levels=3, samples=1, rows=2, count=2)(opened)
        Interpolate(samples=2, stops=2, frames=2)(opened)
        assert (opened.directory / "walk.webp").is_file()

    @pytest.mark.parametrize(
        ("task", "what"),
        [
            (Edit(Restore(Grey)), "task.change=Restore changes"),
            (Edit(Denoise(0.5)), "task.change=Denoise changes"),
            (Edit(Stroke(1.0, squares=4)), "task.change=Stroke changes"),
            (Invert(Grey, {}), "task=invert measures"),
        ],
        ids=["restore", "denoise", "squares", "invert"],
    )
    def test_what_is_done_to_pixels_is_refused(self, opened, task, what):
        with pytest.raises(UserError) as error:
            task(opened)
        assert str(error.value) == (
            f"{what} pixels, and this model sees what data.codec=Blocks makes of them: use a model of "
            "pixels, or edit=vary, stroke or interpolate"
        )


class TestOtherCodecs:
    @pytest.mark.parametrize(
        "words",
        [
            ["+override.data.codec.offset=3"],
            ["+override.data.codec=null"],
            ["+override.data.codec._target_=tests.codecs.Crooked"],
        ],
    )
    @pytest.mark.parametrize("recorded", [True, False])
    def test_data_of_another_codec_are_refused(self, blocks, tmp_path, words, recorded):
        kept = torch.load(blocks, weights_only=True)
        if not recorded:  # an older checkpoint, whose config alone says what its codec was
            del kept["data"]["codec"]
        save_edited(kept, tmp_path / "last.ckpt")
        with pytest.raises(
            UserError, match=r"last\.ckpt was trained with another codec than that of the data"
        ):
            opened_at(tmp_path / "eval", tmp_path / "last.ckpt", overrides=[*TRUST, *words])

    def test_so_are_other_units_of_pixels(self, ckpt, tmp_path):
        with pytest.raises(UserError, match=r"another codec than that of the data, Pixels\(offset=1, "):
            opened_at(tmp_path, ckpt, overrides=["+override.data.offset=1"])
        assert session(tmp_path, ckpt, overrides=["+override.data.seed=1"]).trained.data.seed == 1

    def test_a_codec_whose_weights_have_changed_is_refused(self, blocks, tmp_path):
        """Its config is the same, and its digest is not."""
        kept = torch.load(blocks, weights_only=True)
        kept["data"]["codec"] = codec_digest(Blocks())
        save_edited(kept, tmp_path / "last.ckpt")
        with pytest.raises(UserError, match="was trained with another codec"):
            opened_at(tmp_path / "eval", tmp_path / "last.ckpt", overrides=TRUST)

    def test_a_network_of_another_shape_is_refused(self):
        with pytest.raises(UserError, match=r"Blocks makes 4, 8, \.\.\. channels, .*\[1, 8, 8\]"):
            Digits(batch_size=4, codec=CODEC).expect((1, 8, 8), 0)
        with pytest.raises(
            UserError, match=r"Uneven makes samples 4x4x4 .* network is for 8x4x4 .*data\.codec"
        ):
            Digits(batch_size=4, codec=Uneven()).expect((8, 4, 4), 0)

    def test_a_codec_of_another_package_is_built_for_those_who_trust_it(self, blocks, tmp_path):
        with pytest.raises(
            UserError, match=r"would call tests\.codecs\.Blocks \(data\.codec\).*trust=\[tests\]"
        ):
            opened_at(tmp_path, blocks)


class Uneven(Blocks):
    """Takes other shapes back than it makes."""

    def decoded(self, shape):
        return 1, 8, 8


class TestExport:
    def test_programs_make_images(self, opened):
        t, out = opened.trained, opened.directory
        Export({"torch": TorchExport(), "onnx": Onnx(), "half": Onnx(Half())}, samplers=["1step"], **FAST)(
            opened
        )
        z = torch.randn(5, 1, 4, 4, 4, generator=torch.Generator().manual_seed(3))
        with torch.no_grad():
            expected = t.codec.decode(OneStep([80.0])(t.f, z[:, 0]))
        run = onnxruntime.InferenceSession(out / "onnx" / "1step.onnx")
        (x,) = run.run(None, {"z": z.numpy()})
        assert x.shape == (5, 1, 8, 8)
        meta = run.get_modelmeta().custom_metadata_map
        u = torch.from_numpy(x) * float(meta["scale"]) + float(meta["offset"]) + 0.5
        assert (u.clamp(0, 255).byte().int() - expected.int()).abs().max() <= 1
        assert json.loads(meta["codec"]) == CODEC.describe()
        program = torch.export.load(out / "torch" / "1step.pt2").module()
        assert (Pixels().decode(program(z)).int() - expected.int()).abs().max() <= 1

    def test_the_codec_is_a_program_of_its_own_for_the_bare_network(self, opened):
        t, out = opened.trained, opened.directory / "onnx"
        Export({"onnx": Onnx()}, **FAST)(opened)
        z = torch.randn(3, 4, 4, 4)
        (x,) = onnxruntime.InferenceSession(out / "decoder.onnx").run(None, {"encoded": z.numpy()})
        assert (Pixels().decode(torch.from_numpy(x)).int() - t.codec.decode(z).int()).abs().max() <= 1
        said = json.loads((out / "model.json").read_text())
        assert said["codec"] == {**CODEC.describe(), "shape": [1, 8, 8]}
        assert (said["shape"], said["pixels"]) == ([4, 4, 4], {"scale": 127.5, "offset": 127.5})
        assert said["programs"]["decoder"]["inputs"] == {"encoded": ["batch", 4, 4, 4]}
        page = (out / "README.md").read_text()
        assert "`decoder`" in page
        assert "np.clip(127.5 * x + 128, 0, 255)" in page

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (
                Web,
                "export=web draws pixels, and this model sees what data.codec=Blocks makes of them: choose",
            ),
            (
                Diffusers,
                "export=diffusers makes pixels, and this model sees what data.codec=Blocks makes of them",
            ),
        ],
    )
    def test_formats_of_pixels_are_refused(self, opened, tmp_path, make, said):
        form = make(tmp_path) if make is Web else make()
        with pytest.raises(UserError) as error:
            Export({"one": form}, **FAST)(opened)
        assert str(error.value).startswith(said)
        assert not (opened.directory / "one").exists()

    def test_exported_weights_bring_their_codec(self, opened, tmp_path):
        t = opened.trained
        Export({"safe": Safetensors()}, **FAST)(opened)
        path = opened.directory / "safe" / "model.safetensors"
        again = session(tmp_path / "again", path, overrides=TRUST)
        assert again.trained.data.codec == CODEC
        assert torch.equal(own(again.trained), own(t))
        with pytest.raises(UserError, match="was trained with another codec"):
            opened_at(tmp_path / "b", path, overrides=[*TRUST, "+override.data.codec.scale=3"])
        assert teacher(path, trust=["tests"]).codec_sha256 == codec_digest(CODEC)

    def test_a_program_that_makes_other_images_is_refused(self, tmp_path):
        ckpt = checkpoint(tmp_path, "+data.codec._target_=tests.codecs.Crooked")
        with pytest.raises(
            UserError, match=r"data\.codec=Crooked cannot be exported: its program\(\) makes other"
        ):
            Export({"torch": TorchExport()}, **FAST)(session(tmp_path / "out", ckpt, overrides=TRUST))

    def test_points_and_pixels_need_no_program(self, ckpt, tmp_path):
        t = session(tmp_path, ckpt).trained
        made = Outgoing.of(t, t.samplers)
        assert made.decoder() is None
        assert made.pixels is t.codec or made.pixels == t.codec
        assert outgoing(t.f, (2,), 0, {}, Points()).pixels is None
