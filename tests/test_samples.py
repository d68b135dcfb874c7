"""Samples on disk: image i is the same however it is made, and a command that was stopped goes on."""

import numpy as np
import pytest
import torch
from PIL import Image

from consistency.errors import UserError
from consistency.metrics import memorisation
from consistency.metrics.memorisation import neighbours
from consistency.tasks.make.sample import Sample
from consistency.tasks.measure.fidelity import Fidelity
from tests.conftest import run
from tests.sessions import Watched, checkpoint, session

COUNT = 70


def sample(**words):
    """The task at the size of a test; the first four samples are shown, and made at every call."""
    return Sample(**{"count": COUNT, "samplers": ["1step"], "grid": 4, "nearest": 0, **words})


@pytest.fixture(scope="module")
def straight(ckpt, tmp_path_factory):
    """The array that everybody must end with."""
    folder = tmp_path_factory.mktemp("straight")
    sample(batch=64, array=True, files=True)(session(folder, ckpt))
    return folder


def pngs(folder):
    return {path.name: path.read_bytes() for path in (folder / "1step").iterdir()}


class TestSamples:
    def test_an_array_and_files_hold_the_same_images(self, straight):
        array = np.load(straight / "1step.npy")
        assert (array.shape, array.dtype) == ((COUNT, 1, 8, 8), np.uint8)
        assert len(np.unique(array.reshape(COUNT, -1), axis=0)) > COUNT // 2  # or sameness would mean nothing
        assert sorted(pngs(straight)) == [f"{i:06d}.png" for i in range(COUNT)]
        for i in (0, 1, COUNT - 1):
            with Image.open(straight / "1step" / f"{i:06d}.png") as image:
                assert np.array_equal(np.asarray(image), array[i, 0])

    def test_the_batch_changes_nothing(self, straight, ckpt, tmp_path):
        sample(batch=7, array=True, files=True)(session(tmp_path, ckpt))
        assert (tmp_path / "1step.npy").read_bytes() == (straight / "1step.npy").read_bytes()
        assert pngs(tmp_path) == pngs(straight)

    def test_fewer_samples_are_the_first_of_more(self, straight, ckpt, tmp_path):
        sample(count=9, batch=4, array=True)(session(tmp_path, ckpt))
        assert np.array_equal(np.load(tmp_path / "1step.npy"), np.load(straight / "1step.npy")[:9])

    def test_two_processes_end_what_one_began(self, straight, ckpt, tmp_path):
        stopped = session(tmp_path, ckpt)
        Watched(stopped, calls=2)
        with pytest.raises(KeyboardInterrupt):
            sample(batch=7, array=True, files=True)(stopped)
        words = ["task.count=70", "task.batch=8", "task.samplers=[1step]", "task.grid=4", "task.nearest=0"]
        words += ["task.array=true", "task.files=true", f"ckpt_path={ckpt}", "threads=1", "cache=null"]
        two = run("eval.py", tmp_path, "task=sample", "fabric=ddp_sim", *words)
        assert two.status == 0, two.err
        assert two.result["processes"] == 2
        assert (tmp_path / "1step.npy").read_bytes() == (straight / "1step.npy").read_bytes()
        assert pngs(tmp_path) == pngs(straight)

    def test_an_interrupted_array_is_gone_on_with(self, straight, ckpt, tmp_path):
        stopped = session(tmp_path, ckpt)
        Watched(stopped, calls=3)
        with pytest.raises(KeyboardInterrupt):
            sample(batch=7, array=True)(stopped)
        assert (np.load(tmp_path / "1step.made.npy") > 0).sum() == 21
        assert not (tmp_path / "1step.npy").exists()
        again = session(tmp_path, ckpt)
        watched = Watched(again)
        sample(batch=7, array=True)(again)
        assert watched.made == [7] * 8  # the first batch, which is shown, and the seven that were missing
        assert (tmp_path / "1step.npy").read_bytes() == (straight / "1step.npy").read_bytes()
        left = {path.name for path in tmp_path.iterdir()}
        assert left == {"1step.npy", "1step.png", "sample.json"}

    def test_a_whole_array_is_left_alone(self, ckpt, tmp_path):
        sample(batch=7, array=True)(session(tmp_path, ckpt))
        before = (tmp_path / "1step.npy").stat()
        again = session(tmp_path, ckpt)
        watched = Watched(again)
        sample(batch=64, grid=9, array=True)(again)
        assert sum(watched.made) == 64
        after = (tmp_path / "1step.npy").stat()
        assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)

    @pytest.mark.parametrize("lost", ["1step.made.npy", "1step.partial.npy"])
    def test_half_of_what_was_kept_is_worth_nothing(self, straight, ckpt, tmp_path, lost):
        stopped = session(tmp_path, ckpt)
        Watched(stopped, calls=3)
        with pytest.raises(KeyboardInterrupt):
            sample(batch=7, array=True)(stopped)
        (tmp_path / lost).unlink()
        sample(batch=7, array=True)(session(tmp_path, ckpt))
        assert (tmp_path / "1step.npy").read_bytes() == (straight / "1step.npy").read_bytes()

    @pytest.mark.parametrize("content", [b"", b"\x93NUMPY cut", b"something else entirely"])
    @pytest.mark.parametrize("damaged", ["1step.made.npy", "1step.partial.npy", "1step.npy"])
    def test_damage_is_named(self, ckpt, tmp_path, damaged, content):
        stopped = session(tmp_path, ckpt)
        Watched(stopped, calls=1)
        with pytest.raises(KeyboardInterrupt):
            sample(batch=7, array=True)(stopped)
        (tmp_path / damaged).write_bytes(content)
        with pytest.raises(UserError, match=rf"{damaged} is damaged: delete it"):
            sample(batch=7, array=True)(session(tmp_path, ckpt))

    def test_other_words_in_the_same_folder_are_refused(self, ckpt, tmp_path):
        sample(count=8, array=True)(session(tmp_path, ckpt))
        before = (tmp_path / "1step.npy").read_bytes()
        for words in ({"seed": 1}, {"count": 9}, {"array": False}, {"samplers": ["2step"]}):
            with pytest.raises(UserError, match="other weights or other arguments: choose another run_dir"):
                sample(**{"count": 8, "array": True, **words})(session(tmp_path, ckpt))
        with pytest.raises(UserError, match="other weights or other arguments"):
            sample(count=8, array=True)(session(tmp_path, ckpt, precision="bf16-mixed"))
        assert (tmp_path / "1step.npy").read_bytes() == before
        sample(count=8, array=True, batch=3, grid=2)(session(tmp_path, ckpt))

    def test_other_weights_in_the_same_folder_are_refused(self, ckpt, with_classes, tmp_path):
        sample(count=8)(session(tmp_path, ckpt))
        with pytest.raises(UserError, match="other weights"):
            sample(count=8)(session(tmp_path, with_classes))

    def test_what_cannot_be_is_refused_before_anything_is_written(self, ckpt, with_classes, tmp_path):
        for words, said in (
            ({"labels": 3}, r"task\.labels=3: .* none: it was trained without labels"),
            ({"count": 0}, "must be at least 1"),
            ({"grid": 0}, "must be at least 1"),
            ({"samplers": ["3step"]}, r"task\.samplers=3step is not a sampler"),
        ):
            with pytest.raises(UserError, match=said):
                sample(**words)(session(tmp_path, ckpt))
        for labels in (10, [0, 10], []):
            with pytest.raises(UserError, match="classes of this model are 0 to 9"):
                sample(labels=labels)(session(tmp_path, with_classes))
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("labels", "expected"),
        [(3, [3] * 12), ([1, 4], [1, 4] * 6), (None, [*range(10), 0, 1])],
    )
    def test_labels_follow_from_the_number_of_the_sample(self, with_classes, tmp_path, labels, expected):
        conditional = session(tmp_path, with_classes)
        watched = Watched(conditional)
        sample(count=12, batch=5, labels=labels)(conditional)
        assert watched.labels == expected


class TestMemorisation:
    def drawn_by(self, f, ckpt, tmp_path):
        about = session(tmp_path, ckpt)
        Watched(about, f=f)
        return sample(count=16, nearest=16)(about)

    def test_copies_of_the_data_are_found(self, ckpt, tmp_path):
        data = session(tmp_path, ckpt).trained.data
        shown = data.codec.encode(data.real())
        outcome = self.drawn_by(lambda x, *_: shown[100 : 100 + len(x)], ckpt, tmp_path)
        assert outcome.metrics == {"memorised/1step": 1.0}
        with Image.open(outcome.paths["1step-nearest"]) as picture:
            assert picture.height > picture.width  # eight rows of a sample, a gap and four neighbours

    def test_noise_is_no_copy(self, ckpt, tmp_path):
        outcome = self.drawn_by(lambda x, *_: x / 80, ckpt, tmp_path)
        assert outcome.metrics == {"memorised/1step": 0.0}

    def test_one_training_image_has_no_second_nearest(self, tmp_path):
        alone = checkpoint(tmp_path, "data.images=1")
        assert sample(count=4, nearest=4)(session(tmp_path / "out", alone)).metrics == {}

    @pytest.mark.parametrize("rows", [7, 2048])
    def test_neighbours_are_those_of_all_pairs(self, monkeypatch, rows):
        monkeypatch.setattr(memorisation, "ROWS", rows)
        generator = torch.Generator().manual_seed(0)
        real = torch.randint(0, 256, (50, 3, 32, 32), generator=generator, dtype=torch.uint8)
        made = torch.cat([real[[20, 3]], torch.randint(0, 256, (4, 3, 32, 32), generator=generator).byte()])
        found = neighbours(made, real, k=3)
        rms = (made[:, None].double() - real.double()).square().mean((2, 3, 4)).sqrt()
        expected = rms.sort(1)
        assert torch.equal(found.index, expected.indices[:, :3])
        torch.testing.assert_close(found.distance, expected.values[:, :3])
        assert found.distance[:2, 0].tolist() == [0, 0]  # exactly, although their squares fill 24 bits
        assert found.memorised == pytest.approx(2 / 6)

    def test_there_are_no_more_neighbours_than_data(self):
        x = torch.eye(3)
        assert neighbours(x, x, k=9).index.shape == (3, 3)


class TestFidelity:
    @pytest.fixture
    def known(self, tmp_path):
        return tmp_path / "numbers"

    def test_two_processes_say_what_one_says(self, ckpt, tmp_path):
        one = Fidelity(count=60, batch=16)(session(tmp_path / "one", ckpt))
        words = [f"ckpt_path={ckpt}", "task.count=60", "task.batch=7", "threads=1", "cache=null"]
        two = run("eval.py", tmp_path / "two", "task=fidelity", "fabric=ddp_sim", *words)
        assert two.status == 0, two.err
        found = two.result["metrics"]
        assert found.keys() == one.metrics.keys()
        assert found == pytest.approx(one.metrics, rel=1e-4)
        for ours, theirs in zip(one.numbers, two.result["numbers"], strict=True):
            assert theirs["card"] | {"commit": None} == ours["card"]
        assert two.err.count("1step: ") == 1  # one of them speaks
        assert "| sigmas | 80 | 80, 0.821 |" in (tmp_path / "two" / "fidelity.md").read_text()

    def test_known_numbers_cost_no_network_call(self, ckpt, tmp_path, known):
        first, second, third = (session(tmp_path / "out", ckpt, known) for _ in range(3))
        one, two, other = map(Watched, (first, second, third))
        before = Fidelity(count=8)(first)
        assert Fidelity(count=8, batch=3)(second).metrics == before.metrics
        assert (sum(one.made), sum(two.made)) == (8 * 3, 0)
        assert Fidelity(count=8, seed=1)(third).metrics != before.metrics
        assert sum(other.made) == 8 * 3

    def test_an_evaluation_that_was_stopped_goes_on(self, ckpt, tmp_path, known):
        first, second = (session(tmp_path / "out", ckpt, known) for _ in range(2))
        Watched(first, calls=2)
        with pytest.raises(KeyboardInterrupt):
            Fidelity(count=8)(first)
        watched = Watched(second)
        Fidelity(count=8)(second)
        assert sum(watched.made) == 8 * 2  # those of two steps

    def test_repeats_are_other_samples_and_their_mean(self, ckpt, tmp_path):
        outcome = Fidelity(count=8, repeats=2)(session(tmp_path, ckpt))
        values = [n["values"]["FD(digits)"] for n in outcome.numbers if n["name"] == "1step"]
        seeds = [n["card"]["protocol"]["seed"] for n in outcome.numbers]
        assert seeds == [0, 1, 0, 1]
        assert outcome.metrics["FD(digits)/1step"] == pytest.approx(sum(values) / 2)
        assert values[0] != values[1]
        with pytest.raises(UserError, match=r"task\.repeats=0"):
            Fidelity(count=8, repeats=0)(session(tmp_path, ckpt))
