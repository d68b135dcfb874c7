"""Runs of flow maps: every method learns, goes on to the bit, and logs what two levels need."""

import pytest

from tests.conftest import run
from tests.test_methods import learned

METHODS = ("meanflow", "imf", "soflow", "alphaflow", "lsd", "psd", "emd", "lmd", "ctm")
SHORT = ["data.batch_size=64", "data.samples=64", "threads=1", "trainer.val_check_interval=20"]
SHORT += ["callbacks.checkpoints.every=10", "trainer.log_every_n_steps=5", "trainer.accelerator=cpu"]


@pytest.mark.parametrize(
    ("method", "bar"),  # about twice what the worst of three seeds leaves after 400 steps; untrained, 0.50
    [
        ("meanflow", 0.2),
        ("imf", 0.2),
        ("soflow", 0.2),
        ("lmd", 0.2),
        ("emd", 0.2),
        ("psd", 0.2),
        ("lsd", 0.2),
    ],
)
def test_four_hundred_steps_find_the_exact_map(hydra, method, bar):
    assert learned(f"{method}_ring") < bar


@pytest.fixture
def hydra():
    from hydra import initialize_config_dir

    from tests.test_configs import CONFIGS

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


@pytest.mark.parametrize("method", METHODS)
def test_a_run_goes_on_to_the_bit(tmp_path, method):
    command = [f"experiment={method}_ring", "net.width=16", *SHORT]
    straight = run("train.py", tmp_path / "straight", *command, "trainer.max_steps=40")
    assert straight.returncode == 0, straight.err
    half = run("train.py", tmp_path / "half", *command, "trainer.max_steps=20")
    assert half.returncode == 0, half.err
    again = run("train.py", tmp_path / "half", *command, "trainer.max_steps=40", "ckpt_path=last")
    assert again.result["weights_sha256"]["raw"] != half.result["weights_sha256"]["raw"]
    assert {"map_rmse", "diagonal_rmse", "oracle_rmse"} <= again.result["metrics"].keys()
    assert again.result["role"] == "flow map"
