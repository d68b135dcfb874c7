"""Checkpoint files: whole or not there, and never code. And what a run writes beside them."""

import json
import math

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.files.checkpoints import newest
from consistency.lit.checkpoint_io import AtomicCheckpointIO
from consistency.result import closing_lines, finite_or_none, metrics_line, write_result
from consistency.table import Table
from consistency.teachers.checkpoint import check_fits, read_checkpoint, weights_of
from consistency.tensor import weights_sha256

GOOD = {"state_dict": {"model.w": torch.ones(2)}, "config": {}, "callbacks": {}, "global_step": 3}


def averaged():
    ema = {"averages": {"fast": {"w": torch.full((2,), 5.0)}}, "evaluate": "fast"}
    return {**GOOD, "callbacks": {"EMA": ema}}


def test_what_is_written_comes_back(tmp_path):
    AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "sub" / "last.ckpt")
    back = AtomicCheckpointIO().load_checkpoint(tmp_path / "sub" / "last.ckpt")
    assert torch.equal(back["state_dict"]["model.w"], torch.ones(2))
    assert [path.name for path in (tmp_path / "sub").iterdir()] == ["last.ckpt"]


def test_a_save_that_dies_half_way_leaves_the_older_file(tmp_path, monkeypatch):
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint(GOOD, path)

    def dies(checkpoint, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies)
    with pytest.raises(KeyboardInterrupt):
        AtomicCheckpointIO().save_checkpoint({**GOOD, "global_step": 4}, path)
    assert read_checkpoint(path)["global_step"] == 3
    assert newest(tmp_path.parent) is None


def test_a_full_disk_is_said_in_one_line(tmp_path, monkeypatch):
    def full(checkpoint, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "last.ckpt")
    assert list(tmp_path.iterdir()) == []


def test_newest_prefers_last_and_falls_back_to_the_highest_step(tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    assert newest(tmp_path) is None
    for name in ("step=00000100.ckpt", "step=00000200.ckpt", ".last.ckpt.tmp"):
        (folder / name).touch()
    assert newest(tmp_path) == folder / "step=00000200.ckpt"
    (folder / "last.ckpt").touch()
    assert newest(tmp_path) == folder / "last.ckpt"


def test_weights_by_name():
    assert weights_of(averaged())[0] == "fast"
    assert weights_of(averaged())[1]["w"].tolist() == [5, 5]
    assert weights_of(averaged(), "raw")[1]["w"].tolist() == [1, 1]
    assert weights_of(GOOD)[0] == "raw"
    with pytest.raises(UserError, match="weights=slow is not in the checkpoint, which has: raw, fast"):
        weights_of(averaged(), "slow")


def test_another_network_is_named_by_its_first_tensor():
    net = nn.Linear(2, 3)
    check_fits("a.ckpt", net.state_dict(), net)
    with pytest.raises(UserError, match=r"bias is absent there and \(3,\) here"):
        check_fits("a.ckpt", {"weight": net.weight}, net)
    with pytest.raises(UserError, match=r"weight is \(3, 4\) there and \(3, 2\) here"):
        check_fits("a.ckpt", nn.Linear(4, 3).state_dict(), net)


def test_the_hash_of_weights_knows_values_and_names_but_no_order():
    a, b = torch.ones(2), torch.zeros(3)
    one = weights_sha256({"a": a, "b": b})
    assert one == weights_sha256({"b": b.clone(), "a": a.clone()})
    assert one != weights_sha256({"a": b, "b": a})
    assert one != weights_sha256({"a": a, "b": b + 1e-7})
    assert weights_sha256({"a": a}) != weights_sha256({"a": a.double()})


def test_a_result_is_json_whatever_it_measured(tmp_path):
    write_result(tmp_path, {"metrics": {"FD": math.nan, "ok": 1.0}, "steps": 1})
    assert json.loads((tmp_path / "result.json").read_text()) == {
        "metrics": {"FD": None, "ok": 1.0},
        "steps": 1,
    }
    assert finite_or_none(math.inf) is None


def test_the_line_people_read():
    result = {"metrics": {"FD/1step": 7.8499}, "steps": 6000, "images": 768000, "seconds": 89.6}
    assert metrics_line(result) == "FD/1step 7.85  (6,000 steps, 768,000 images, 90 s)"


def test_many_numbers_are_lines_that_fit_a_terminal_and_say_of_how_many_samples():
    card = {"card": {"protocol": {"sampler": "onestep", "count": 5000}}}
    result = {"metrics": {f"FD(digits)/{n}step": n for n in range(30)}, "seconds": 3, "numbers": [card] * 2}
    lines = metrics_line(result).splitlines()
    assert max(map(len, lines)) <= 100
    assert "  ".join(lines).split("  ")[29:] == ["FD(digits)/29step 29", "(5,000 samples judged, 3 s)"]


def test_what_a_table_shows_is_not_printed_again(tmp_path):
    result = {"metrics": {"FD/1step": 7.8}, "seconds": 3, "paths": {"table": "fidelity.md", "chart": None}}
    text = closing_lines(result, tmp_path, Table(["", "FD"], [["1step", "7.8"]]).text())
    places = [
        f"{name:<12} {path}"
        for name, path in (("table", "fidelity.md"), ("result", tmp_path / "result.json"))
    ]
    assert text.splitlines() == ["        FD", "1step  7.8", *places, "(3 s)"]
