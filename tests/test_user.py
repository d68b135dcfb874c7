"""Commands of the README, as written, at the size of a test."""

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.conftest import ROOT, SMALL, run

GAPS = {"gap/self", "gap/trajectory", "gap/reconstruction", "gap/boundary"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    options = [*SMALL, "trainer.max_steps=40", "trainer.val_check_interval=20", "trainer.log_every_n_steps=5"]
    return run("train.py", tmp_path_factory.mktemp("digits"), *options)


def test_a_run_says_where_everything_is_and_what_came_of_it(digits):
    assert digits.status == 0, digits.err
    *lines, validation = digits.out.strip().splitlines()
    assert validation.startswith("validation   2 in ")
    places, numbers = lines[:4], " ".join(lines[4:])
    assert [place.split()[0] for place in places] == ["picture", "checkpoint", "tensorboard", "result"]
    for place in places:
        assert (digits.directory / place.split()[1]).exists()
    assert max(map(len, lines[4:])) <= 100
    assert "FD(digits)/1step" in numbers
    assert "FD(digits)/floor" in numbers
    assert "(64 samples judged, 40 steps, 1,280 images, " in numbers
    assert "Warning" not in digits.err


def test_result_json_has_what_scripts_need(digits):
    result = digits.result
    keys = {
        "metrics",
        "steps",
        "images",
        "seconds",
        "parameters",
        "weights_sha256",
        "device",
        "versions",
        "commit",
    }
    assert keys <= result.keys()
    assert result["metrics"].keys() == {"FD(digits)/1step", "FD(digits)/2step", "FD(digits)/floor"} | GAPS
    assert result["weights_sha256"].keys() == {"raw", "ema"}
    assert result["weights_sha256"]["raw"] != result["weights_sha256"]["ema"]
    with Image.open(result["paths"]["picture"]) as picture:
        assert picture.width >= 400
    config = (digits.directory / "config.yaml").read_text()
    assert "max_steps: 40" in config


def test_tensorboard_has_every_curve(digits):
    events = EventAccumulator(str(digits.directory / "tensorboard"))
    events.Reload()
    scalars = set(events.Tags()["scalars"])
    assert {"train/loss", "train/lr", "train/images_per_second", "curriculum/N", "curriculum/mu"} <= scalars
    assert {"FD(digits)/1step", "FD(digits)/2step", "FD(digits)/floor"} | GAPS <= scalars
    assert sum(name.startswith("loss_by_sigma/") for name in scalars) >= 8
    pictures = {"samples/1step", "samples/2step", "sigma/histogram", "gap/by_sigma"}
    assert set(events.Tags()["images"]) == pictures
    assert [e.value for e in events.Scalars("curriculum/N")] == [11, 21, 41, 81, 161]
    assert "config/text_summary" in events.Tags()["tensors"]


def test_the_checkpoint_holds_raw_and_averaged_weights_and_a_plain_config(digits):
    checkpoint = torch.load(digits.directory / "checkpoints" / "last.ckpt", weights_only=True)
    raw = checkpoint["state_dict"]["model.net.stem.weight"]
    average = checkpoint["callbacks"]["EMA"]["averages"]["ema"]["net.stem.weight"]
    assert raw.shape == average.shape
    assert not torch.equal(raw, average)
    assert checkpoint["config"]["trainer"]["max_steps"] == 40
    assert {path.name for path in (digits.directory / "checkpoints").iterdir()} == {
        "last.ckpt",
        "best.ckpt",
        "good.ckpt",
    }


def test_the_same_command_gives_the_same_weights(digits, tmp_path):
    options = [*SMALL, "trainer.max_steps=40", "trainer.val_check_interval=20", "trainer.log_every_n_steps=5"]
    assert run("train.py", tmp_path, *options).result["weights_sha256"] == digits.result["weights_sha256"]


def test_eval_samples_and_measures_from_the_checkpoint_alone(digits, tmp_path):
    ckpt = f"ckpt_path={digits.directory}/checkpoints/last.ckpt"
    sample = run("eval.py", tmp_path / "sample", "task=sample", ckpt, "task.count=9")
    assert sample.status == 0, sample.err
    pictures = {f"{name}step{kind}.png" for name in (1, 2) for kind in ("", "-nearest")}
    assert {path.name for path in (tmp_path / "sample").glob("*.png")} == pictures
    assert sample.result["weights_sha256"]["ema"] == digits.result["weights_sha256"]["ema"]
    fidelity = run("eval.py", tmp_path / "fd", "task=fidelity", ckpt, "task.count=64", "task.batch=10")
    of_samples = digits.result["metrics"].keys() - GAPS  # the run's own 64 samples, in other batches
    for name in of_samples:
        value = digits.result["metrics"][name]
        assert fidelity.result["metrics"][name] == pytest.approx(value, rel=1e-3)


def test_a_ring_reports_its_distance_to_the_exact_function(tmp_path):
    options = [
        "method=ict",
        "data=ring",
        "budget=points",
        *SMALL,
        "trainer.max_steps=60",
        "trainer.val_check_interval=60",
    ]
    metrics = run("train.py", tmp_path, *options, "data.samples=512").result["metrics"]
    assert metrics.keys() == {"oracle_rmse", "oracle_rmse_mean", "SW2/1step", "SW2/2step", "SW2/floor"} | GAPS
    assert 0 < metrics["oracle_rmse"] < 1


def test_a_teacher_is_held_against_the_exact_denoiser(tmp_path):
    options = [
        "method=edm",
        "data=ring",
        "budget=points",
        *SMALL,
        "trainer.max_steps=300",
        "trainer.val_check_interval=300",
        "ema.mu=0.9",
    ]
    result = run("train.py", tmp_path, *options, "data.samples=512").result
    assert result["metrics"].keys() == {
        "oracle_rmse",
        "oracle_rmse_mean",
        *(f"SW2/{name}" for name in ("heun35", "euler18", "ddim18", "floor")),
    }
    assert result["metrics"]["oracle_rmse"] < 0.052  # c_skip x, an untrained network, has 0.0551
    assert result["paths"]["picture"].endswith("heun35.png")


def test_the_cifar10_recipe_runs_on_a_folder_of_ones_own_images(tmp_path):
    images = tmp_path / "images"
    for i in range(12):
        (images / f"class{i % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (10, 12), (20 * i, 255 - 20 * i, 0)).save(images / f"class{i % 2}" / f"{i}.png")
    options = [
        "experiment=ict_cifar10",
        "trainer=cpu",
        "data=image_folder",
        f"data.root={images}",
        "net=unet_small",
    ]
    options += ["data.resolution=8", "data.conditional=true", "data.batch_size=4", "data.samples=6"]
    options += ["net.channels=8", "net.embedding.channels=8", "net.multipliers=[1,2]", "net.attention=[4]"]
    result = run(
        "train.py", tmp_path / "run", *options, "trainer.max_steps=8", "trainer.val_check_interval=4"
    )
    assert result.status == 0, result.err
    assert result.result["steps"] == 8
    distances = {f"FD(random-conv)/{n}" for n in ("1step", "2step", "floor")}
    assert result.result["metrics"].keys() == distances | GAPS
    again = run(
        "train.py", tmp_path / "again", *options, "trainer.max_steps=8", "trainer.val_check_interval=4"
    )
    assert again.raw == result.raw  # from the cache this time
    assert "converting" in result.err
    assert "converting" not in again.err


@pytest.mark.parametrize("sweep", [[], ["-m"]])
def test_without_run_dir_a_run_and_a_sweep_find_a_place_of_their_own(tmp_path, sweep):
    command = [sys.executable, str(ROOT / "train.py"), *sweep, *SMALL, "trainer.max_steps=10", "seed=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("runs/ict_digits/*/0/result.json" if sweep else "runs/ict_digits/*/result.json")
    assert json.loads(result.read_text())["steps"] == 10
