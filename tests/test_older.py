"""A checkpoint of commit 44be2db opens, samples the same points, and goes on with the same weights.

Its paths were made relative. `44be2db.json` holds what that commit made of it: four samples, and the bias of
the first layer when the run had gone on from step 30 to step 60.
"""

import json
import shutil

import numpy as np
import pytest
import torch

from consistency.model.maps import Consistency
from consistency.teachers.checkpoint import checkpoint, read_checkpoint
from tests.conftest import ROOT, run

DATA = ROOT / "tests" / "data"
WORDS = ["method=ict", "data=ring", "budget=points", "data.samples=64", "data.sample_batch=64", "trainer=cpu"]
WORDS += ["net.width=16", "net.blocks=1", "threads=1", "trainer.val_check_interval=30", "ema.rampup=null"]


@pytest.fixture(scope="module")
def then():
    return json.loads((DATA / "44be2db.json").read_text())


@pytest.fixture
def old(tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    shutil.copy(DATA / "44be2db.ckpt", tmp_path / "run" / "checkpoints" / "last.ckpt")
    return tmp_path / "run"


def test_its_role_follows_from_its_method():
    assert isinstance(checkpoint(DATA / "44be2db.ckpt"), Consistency)


def test_it_samples_the_same_points(then, tmp_path):
    given = [f"ckpt_path={DATA / '44be2db.ckpt'}", "task.count=4", "task.array=true", "task.nearest=0"]
    done = run("eval.py", tmp_path / "eval", "task=sample", *given, "fabric=cpu", "threads=1", "cache=null")
    assert done.status == 0, done.err
    assert done.result["role"] == "consistency function"
    for name, samples in then["samples"].items():
        made = np.load(tmp_path / "eval" / f"{name}.npy")
        assert np.allclose(made, samples, rtol=1e-5, atol=1e-6)  # to the bit on the same processor


def test_its_run_goes_on(then, old):
    done = run("train.py", old, *WORDS, "trainer.max_steps=60", "ckpt_path=last")
    assert done.status == 0, done.err
    content = read_checkpoint(old / "checkpoints" / "last.ckpt")
    assert (content["global_step"], content["role"]) == (60, "consistency function")
    bias = content["state_dict"]["model.net.stem.bias"]
    assert torch.allclose(bias, torch.tensor(then["stem.bias"]), rtol=1e-4, atol=1e-6)
