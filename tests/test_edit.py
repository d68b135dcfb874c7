"""Edits of one's own images, and linear inverse problems: what stays, what is said, what is refused."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consistency.build import make
from consistency.data.loader import ArrayData
from consistency.edits import Denoise, Restore, Stroke, Vary
from consistency.errors import UserError
from consistency.model.condition import NONE
from consistency.sampling.classical import PseudoInverse, TotalVariation, Wiener
from consistency.sampling.editing import EditPlan
from consistency.sampling.masks import all_but_hole
from consistency.sampling.operators import BoxSuperResolution, Grey, Inpainting
from consistency.schedule.draws import ImageDraws
from consistency.schema.check import check_config
from consistency.tasks.make.edit import Edit
from consistency.tasks.make.inputs import MaskFile, load_inputs, read_mask_file
from consistency.tasks.make.interpolate import Interpolate
from consistency.tasks.make.invert import Invert
from consistency.tasks.make.sample import Sample
from tests.conftest import ROOT, run
from tests.sessions import Watched, checkpoint, composed, session

CONFIGS = ROOT / "configs"
SMALL = {"levels": 4, "samples": 2}
BASELINES = {"pseudo-inverse": PseudoInverse(), "total-variation": TotalVariation(20), "wiener": Wiener()}


@pytest.fixture(scope="module")
def colour(tmp_path_factory):
    folder = tmp_path_factory.mktemp("colour")
    images = folder / "images"
    images.mkdir()
    for i in range(4):
        photo(images / f"{i}.png", (8, 8), seed=i)
    words = ["data=image_folder", f"data.root={images}", "data.resolution=8", "metric=random_conv"]
    return checkpoint(folder, *words)


def photo(path, size=(12, 8), seed=0, mode="RGB"):
    """An image file of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return str(path)


def masked(path, size=(8, 8)):
    """A mask whose lower half is black, to be made."""
    pixels = np.full((size[1], size[0]), 255, np.uint8)
    pixels[size[1] // 2 :] = 0
    Image.fromarray(pixels).save(path)
    return str(path)


def inpainting(path):
    return Restore(partial(Inpainting, known=MaskFile(path)))


def read(path):
    with Image.open(path) as image:
        return np.asarray(image)


def edited(folder):
    return {path.name: read(path) for path in (folder / "edited").iterdir()}


class TestEdit:
    def test_as_a_user_types_it(self, ckpt, tmp_path):
        """Images of another size and in colour, a large mask: what was done to them is said."""
        given = [photo(tmp_path / "a.png", (24, 16)), photo(tmp_path / "b.jpg", (8, 8), mode="L")]
        mask = masked(tmp_path / "mask.png", (64, 64))
        words = [
            f"ckpt_path={ckpt}",
            f"input=[{','.join(given)}]",
            f"mask={mask}",
            "task.samples=2",
            "threads=1",
        ]
        done = run("eval.py", tmp_path / "out", "task=edit", "edit=inpaint", *words, "cache=null")
        assert done.status == 0, done.err
        for line in ("made grey", "cut to the middle", "resized from 16x16 to 8x8"):
            assert f"input: 1 of 2 images {line}" in done.err
        assert "mask: resized from 64x64 to 8x8" in done.err
        names = {f"{number}-{s}.png" for number in ("000-a", "001-b") for s in (0, 1)}
        assert set(edited(tmp_path / "out")) == names
        known = read(given[1])[:4]
        for s in (0, 1):
            assert np.array_equal(edited(tmp_path / "out")[f"001-b-{s}.png"][:4], known)
        assert Path(done.result["paths"]["strip"]).is_file()
        assert (done.result["images"], "Traceback" in done.err) == (4, False)

    def test_known_pixels_stay_and_the_others_are_made(self, ckpt, tmp_path):
        """For every grey level there is, and with σ to the very end."""
        ramp = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
        given = []
        for i, pixels in enumerate(ramp):
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
            given.append(str(tmp_path / f"{i}.png"))
        Edit(inpainting(masked(tmp_path / "mask.png")), given, **SMALL)(session(tmp_path / "out", ckpt))
        made = edited(tmp_path / "out")
        for i, pixels in enumerate(ramp):
            first, second = (made[f"{i:03d}-{i}-{s}.png"] for s in (0, 1))
            assert np.array_equal(first[:4], pixels[:4])
            assert np.array_equal(second[:4], pixels[:4])
            assert not np.array_equal(first[4:], second[4:])

    def test_a_sample_is_the_same_whatever_stands_beside_it(self, ckpt, tmp_path):
        a, b = (photo(tmp_path / f"{name}.png", (8, 8), seed, "L") for seed, name in enumerate("ab"))
        change = Stroke(2.0)
        Edit(change, [a, b], samples=3, batch=64, levels=4)(session(tmp_path / "both", ckpt))
        Edit(change, b, samples=2, batch=1, levels=4)(session(tmp_path / "one", ckpt))
        both, one = edited(tmp_path / "both"), edited(tmp_path / "one")
        for s in (0, 1):
            assert np.array_equal(one[f"000-b-{s}.png"], both[f"001-b-{s}.png"])
        Edit(change, b, samples=2, seed=1, levels=4)(session(tmp_path / "seed", ckpt))
        assert not np.array_equal(edited(tmp_path / "seed")["000-b-0.png"], one["000-b-0.png"])

    def test_means_of_patches_stay(self, ckpt, tmp_path):
        """A small image is taken as the means, which are kept as far as pixels can say them."""
        small = np.random.default_rng(0).integers(60, 200, (4, 4), dtype=np.uint8)
        Image.fromarray(small).save(tmp_path / "small.png")
        change = Restore(partial(BoxSuperResolution, factor=2))
        Edit(change, str(tmp_path / "small.png"), **SMALL)(session(tmp_path / "out", ckpt))
        for image in edited(tmp_path / "out").values():
            inside = (image > 0) & (image < 255)
            whole = inside.reshape(4, 2, 4, 2).all((1, 3))  # no pixel of the patch was cut off
            means = image.reshape(4, 2, 4, 2).mean((1, 3))
            assert np.abs(means - small)[whole].max(initial=0) <= 0.5

    def test_colours_are_made_for_a_grey_image(self, colour, tmp_path):
        given = photo(tmp_path / "grey.png", (8, 8), mode="L")
        Edit(Restore(Grey), given, **SMALL)(session(tmp_path / "out", colour))
        images = list(edited(tmp_path / "out").values())
        assert [image.shape for image in images] == [(8, 8, 3)] * 2
        assert not np.array_equal(images[0][..., 0], images[0][..., 1])

    def test_a_model_of_grey_images_makes_no_colours(self, ckpt, tmp_path):
        with pytest.raises(UserError, match="has no colours to make"):
            Edit(Restore(Grey), **SMALL)(session(tmp_path, ckpt))

    def test_noise_is_added_only_where_that_is_asked_for(self):
        x, plan, draws = torch.zeros(2, 1, 4, 4), EditPlan([80.0]), ImageDraws(0, [0, 1])
        asked = []

        def f(x, sigma, c=NONE):
            asked.append((x, sigma.tolist()))
            return x

        assert torch.equal(Denoise(0.3)(f, x, plan, draws, NONE).before, x)
        noisy = Denoise(0.3, add=True)(f, x, plan, draws, NONE)
        assert torch.equal(noisy.before, asked[1][0])
        assert noisy.before.std().item() == pytest.approx(0.3, rel=0.4)
        assert [sigma for _, sigma in asked] == [[0.3, 0.3]] * 2

    def test_a_painting_is_made_first_where_asked(self, ckpt, tmp_path):
        t = session(tmp_path, ckpt).trained
        plan = EditPlan([1.0], low=-1.0, high=1.0)
        x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
        before, _ = Stroke(1.0, squares=4)(t.f, x, plan, ImageDraws(0, range(3)), NONE)
        levels = {round(v, 4) for v in before.unique().tolist()}
        assert levels <= {-1.0, -0.3333, 0.3333, 1.0}
        assert torch.equal(before[..., ::4, ::4].repeat_interleave(4, -1).repeat_interleave(4, -2), before)
        assert (before.mean((2, 3)) - x.mean((2, 3))).abs().max() < 0.34

    def test_images_before_and_after_are_judged_where_asked(self, ckpt, tmp_path):
        task = Edit(Stroke(1.0, squares=4), count=100, rows=2, judged=True, levels=4, samples=1)
        (table,) = task(session(tmp_path, ckpt)).tables
        assert table.head == ["", "FD(digits)", "PSNR [dB]"]
        assert [row[0] for row in table.rows] == ["training images", "before", "after"]
        distance = [float(row[1]) for row in table.rows]
        assert distance[0] < min(distance[1:])  # nobody trained this network
        assert table.rows[0][2] == "inf"

    def test_images_have_noise_of_their_own(self, ckpt, tmp_path):
        for seed, name in enumerate("ab"):
            photo(tmp_path / f"{name}.png", (8, 8), seed, "L")
        Edit(Stroke(80.0), [str(tmp_path / "a.png"), str(tmp_path / "b.png")], **SMALL)(
            session(tmp_path, ckpt)
        )
        made = edited(tmp_path)
        assert not np.array_equal(made["000-a-0.png"], made["001-b-0.png"])  # of 80, the input is lost

    def test_held_out_images_come_before_training_images(self, ckpt, tmp_path, capsys):
        here = session(tmp_path, ckpt)
        here.trained.data.load_held_out = lambda: ArrayData(torch.zeros(5, 1, 8, 8, dtype=torch.uint8))
        outcome = Edit(Vary(1.0), rows=2, **SMALL)(here)
        assert "input=null: 2 held-out images are taken" in capsys.readouterr().err
        assert sorted(Path(outcome.paths["images"]).glob("*.png"))[0].name == "000-held-out000-0.png"

    def test_training_images_stand_in_for_a_users(self, ckpt, tmp_path, capsys):
        read_mask_file.cache_clear()
        outcome = Edit(inpainting(None), rows=3, **SMALL)(session(tmp_path, ckpt))
        assert outcome.images == 6
        said = capsys.readouterr().err
        assert "input=null: 3 training images are taken" in said
        assert said.count("mask=null: the left half is known") == 1

    def test_classes_are_those_that_were_asked_for(self, with_classes, tmp_path):
        for label, expected in ((7, [7, 7, 7]), (None, [0, 1, 2])):
            here = session(tmp_path, with_classes)
            watched = Watched(here)
            Edit(Vary(0.5), label=label, samples=3, rows=1)(here)
            assert watched.labels == expected

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            ({"samples": 0}, "task.samples=0 must be at least 1"),
            ({"rows": 0}, "task.rows=0"),
            ({"levels": 1}, "task.levels=1 must be at least 2"),
            ({"label": 3}, "none: it was trained without labels"),
            ({"sigmas": [1.0, 2.0]}, "must fall, from at most 80"),
            ({"sigmas": [90.0, 2.0]}, "must fall, from at most 80"),
            ({"sigmas": []}, "must fall"),
            ({"change": Stroke(100.0)}, "task.change.sigma=100.0 must lie above 0.002 and at most at 80"),
            ({"change": Denoise(0.001)}, "task.change.sigma=0.001"),
            ({"input": "nothing.png"}, "input=nothing.png: no such file"),
            ({"input": []}, r"input=\[\] names no image"),
        ],
    )
    def test_what_cannot_be_is_refused(self, ckpt, tmp_path, words, said):
        with pytest.raises(UserError, match=said):
            Edit(**{"change": Vary(1.0), **words})(session(tmp_path / "out", ckpt))
        assert not (tmp_path / "out" / "edited").exists()

    def test_files_that_are_no_images_are_named(self, ckpt, tmp_path):
        t = session(tmp_path / "out", ckpt).trained
        (tmp_path / "text.png").write_text("hello")
        with pytest.raises(UserError, match=r"text\.png is not an image that can be read"):
            load_inputs(str(tmp_path / "text.png"), t, 1)
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="holds no image: expected"):
            load_inputs(str(tmp_path / "empty"), t, 1)

    def test_a_folder_gives_its_images_in_order(self, ckpt, tmp_path):
        (tmp_path / "in").mkdir()
        for seed, name in enumerate("ba"):
            photo(tmp_path / "in" / f"{name}.png", (8, 8), seed, "L")
        found = load_inputs([str(tmp_path / "in")], session(tmp_path / "out", ckpt).trained, 1)
        assert (found.names, tuple(found.u.shape)) == (["a", "b"], (2, 1, 8, 8))
        assert np.array_equal(found.u[1, 0].numpy(), read(tmp_path / "in" / "b.png"))

    def test_a_mask_knows_something_and_not_all(self, tmp_path):
        Image.new("L", (8, 8), 255).save(tmp_path / "white.png")
        with pytest.raises(UserError, match=r"white\.png is all of one colour: white is known"):
            MaskFile(str(tmp_path / "white.png"))((1, 8, 8))
        assert (
            MaskFile(masked(tmp_path / "half.png"))((3, 8, 8)).tolist()
            == [[True] * 8] * 4 + [[False] * 8] * 4
        )

    def test_points_are_not_edited(self, tmp_path):
        ring = checkpoint(tmp_path, "method=ict", "data=ring", "budget=points")
        for task in (Edit(Vary(1.0)), Interpolate(), Invert(Grey, {})):
            with pytest.raises(UserError, match="is of a model of points"):
                task(session(tmp_path / "out", ring))

    def test_the_levels_are_the_runs_and_the_last_needs_no_call(self, ckpt, tmp_path):
        t = session(tmp_path, ckpt).trained
        plan = t.plan(11)
        assert len(plan.sigmas) == 10
        assert plan.sigmas[0] == pytest.approx(80)
        assert plan.sigmas[-1] == pytest.approx(0.01672075323)
        assert (plan.low, plan.high) == tuple(t.data.codec.encode(torch.tensor([0, 255])).tolist())


class TestInterpolate:
    def test_stops_are_samples_of_the_model(self, ckpt, tmp_path):
        """The same that task=sample makes in one step; and every picture is where it says."""
        Sample(count=6, samplers=["1step"], array=True, nearest=0)(session(tmp_path, ckpt))
        samples = np.load(tmp_path / "1step.npy")
        here = session(tmp_path / "walk", ckpt)
        watched = Watched(here)
        words = {"samples": 2, "stops": 3, "frames": 4, "animation": "walk.png", "size": 9}
        paths = Interpolate(**words)(here).paths
        assert watched.made == [2] * 13  # from the first stop back to it
        grid = read(paths["grid"])[..., 0]
        for walk in range(2):
            tiles = [grid[1 + 9 * walk :][:8, 1 + 9 * i :][:, :8] for i in range(5)]
            assert np.array_equal(tiles[0], samples[3 * walk, 0])
            assert np.array_equal(tiles[4], samples[3 * walk + 1, 0])

    @pytest.mark.parametrize("name", ["walk.png", "walk.webp", "walk.gif"])
    def test_the_animation_has_every_frame(self, ckpt, tmp_path, name):
        words = {"samples": 4, "stops": 2, "frames": 3, "animation": name, "size": 30}
        path = Interpolate(**words)(session(tmp_path, ckpt)).paths["animation"]
        with Image.open(path) as image:
            assert image.n_frames == 6
            assert image.info["loop"] == 0

    def test_what_cannot_be_is_refused(self, ckpt, tmp_path):
        for words, said in (
            ({"stops": 1}, "task.stops=1 must be at least 2"),
            ({"frames": 0}, "task.frames=0"),
            ({"animation": "walk.mp4"}, "must end in one of: .png, .webp, .gif"),
            ({"input": "a.png"}, "edit=interpolate walks between samples; leave input away"),
            ({"label": 1}, "trained without labels"),
        ):
            with pytest.raises(UserError, match=said):
                Interpolate(**words)(session(tmp_path, ckpt))


class TestInvert:
    @staticmethod
    def task(**words):
        hole = partial(Inpainting, known=partial(all_but_hole, side=0.5))
        return Invert(
            **{"operator": hole, "baselines": BASELINES, "count": 6, "calls": [2, 3], "mean_of": 1, **words}
        )

    def test_all_methods_stand_in_one_table_and_fit_what_is_exact(self, ckpt, tmp_path):
        outcome = self.task(rows=2)(session(tmp_path, ckpt))
        (table,) = outcome.tables
        calls = {row[0]: row[1] for row in table.rows}
        assert calls == {**dict.fromkeys(BASELINES, "0"), "2step": "2", "3step": "3"}
        assert all(number["values"]["residual"] < 1e-6 for number in outcome.numbers)
        assert "6 training images of Digits" in table.title
        assert list(table.head) == ["", "calls", "PSNR", "SSIM", "residual"]
        assert (tmp_path / "invert.md").read_text().startswith("**Inpainting, noise 0, ")
        assert read(tmp_path / "strip.png").shape[1] >= 480

    def test_a_mean_of_restorations_is_nearer_and_fits_as_well(self, ckpt, tmp_path):
        outcome = self.task(mean_of=4, mean_calls=2)(session(tmp_path, ckpt))
        values = {number["name"]: number["values"] for number in outcome.numbers}
        one, several = values["2step"], values["2step, mean of 4"]
        assert several["PSNR"] > one["PSNR"] + 0.5  # their noise is not the same
        assert several["residual"] < 1e-6
        assert ["2step, mean of 4", "8"] in [row[:2] for row in outcome.tables[0].rows]

    def test_distances_from_the_data_stand_beside_where_asked(self, ckpt, tmp_path):
        outcome = self.task(judged=True, count=40)(session(tmp_path, ckpt))
        (table,) = outcome.tables
        assert table.head[-1] == "FD(digits)"
        assert "FD(digits) of the true ones" in table.title
        values = {number["name"]: number["values"]["FD(digits)"] for number in outcome.numbers}
        assert values["wiener"] < values["pseudo-inverse"]

    def test_the_best_of_each_column_is_marked_whoever_it_is(self, ckpt, tmp_path):
        """Of networks that nobody trained, Wiener's estimate is better."""
        outcome = self.task()(session(tmp_path, ckpt))
        values = {number["name"]: number["values"]["PSNR"] for number in outcome.numbers}
        assert max(values, key=values.__getitem__) == "wiener"
        marked = [row[0] for row in outcome.tables[0].rows if row[2].endswith("*")]
        assert marked == ["wiener"]

    def test_noise_is_not_to_be_fitted(self, ckpt, tmp_path):
        """A residual is best near the noise: A⁺y, which fits all of it, is not marked."""
        noisy = partial(BoxSuperResolution, factor=2, noise=0.2)
        rows = self.task(operator=noisy)(session(tmp_path, ckpt)).tables[0].rows
        marks = {row[0]: row[4].endswith("*") for row in rows}
        assert not marks["pseudo-inverse"]
        assert sum(marks.values()) == 1

    def test_what_is_known_is_not_computed_again(self, ckpt, tmp_path):
        first = self.task(rows=1)(session(tmp_path / "a", ckpt, cache=tmp_path / "cache"))
        again = session(tmp_path / "b", ckpt, cache=tmp_path / "cache")
        watched = Watched(again)
        second = self.task(rows=1, batch=4)(again)
        assert watched.made == [1] * 5  # the strip
        assert second.metrics == first.metrics
        other = session(tmp_path / "c", ckpt, cache=tmp_path / "cache")
        watched = Watched(other)
        self.task(rows=1, seed=1)(other)
        assert watched.made.count(6) == 5

    def test_the_batch_changes_nothing(self, ckpt, tmp_path):
        noisy = partial(BoxSuperResolution, factor=2, noise=0.1)
        whole, parts = (
            self.task(operator=noisy, batch=batch)(session(tmp_path, ckpt)).metrics for batch in (6, 4)
        )
        assert whole == pytest.approx(parts, abs=1e-3)  # sums over batches are not of one order

    def test_a_baseline_may_be_left_out_and_own_images_be_taken(self, ckpt, tmp_path):
        given = photo(tmp_path / "a.png", (8, 8), mode="L")
        outcome = self.task(input=given, baselines={"wiener": None}, calls=[2])(session(tmp_path, ckpt))
        assert list(outcome.metrics) == ["PSNR/2step"]
        assert "1 given images" in outcome.tables[0].title

    def test_what_cannot_be_is_refused(self, ckpt, tmp_path):
        for words, said in (
            ({"count": 0}, "task.count=0"),
            ({"mean_of": 0}, "task.mean_of=0"),
            ({"calls": [0]}, r"task\.calls\[0\]=0 must be at least 1"),
            ({"operator": partial(BoxSuperResolution, factor=3)}, r"operator\.factor=3"),
        ):
            with pytest.raises(UserError, match=said):
                self.task(**words)(session(tmp_path, ckpt))


class TestConfigs:
    @pytest.mark.parametrize("edit", sorted(path.stem for path in (CONFIGS / "edit").glob("*.yaml")))
    def test_every_edit_can_be_made(self, edit):
        config = composed("eval", "task=edit", f"edit={edit}", "run_dir=x")
        if "change" in config.task or "animation" in config.task:
            check_config(config, "eval")
            make(config.task)

    @pytest.mark.parametrize("operator", sorted(path.stem for path in (CONFIGS / "operator").glob("*.yaml")))
    def test_every_operator_measures(self, operator):
        if operator == "deepinv":
            pytest.importorskip("deepinv")
        config = composed("eval", "task=invert", f"operator={operator}", "run_dir=x")
        check_config(config, "eval")
        A = make(config.task).operator((3, 8, 8))
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
        assert A.pseudo_inverse(A.forward(x)).shape == x.shape

    def test_a_misspelt_key_is_answered_with_the_nearest(self):
        for words, said in (
            (["task=edit", "edit=stroke", "+task.change.sigmo=1"], "did you mean 'sigma'"),
            (["task=invert", "operator=blur", "+operator.with=1"], "did you mean 'width'"),
        ):
            with pytest.raises(UserError, match=said):
                check_config(composed("eval", *words, "run_dir=x"), "eval")
