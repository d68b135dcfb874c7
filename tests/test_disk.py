"""What cannot be written: one line that names the file, nothing half written, and a run that goes on."""

import errno
import resource
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from safetensors import SafetensorError

from consistency.files import atomic
from consistency.files.atomic import Unwritable, dispensable, replacing, write_text
from consistency.lit.callbacks.checkpoints import Checkpoints, KeepConfig
from consistency.lit.callbacks.samples import SampleGrid
from consistency.lit.checkpoint_io import AtomicCheckpointIO
from consistency.lit.loggers.tensorboard import Board, Quiet
from consistency.metrics.card import Card, Memo
from consistency.metrics.reference import write_reference
from consistency.process.stops import Interrupted
from consistency.result import write_result
from consistency.tasks.make.files import Array
from consistency.tasks.schedule_file import SigmaList
from consistency.tasks.schedules import keep_lists
from consistency.teachers.checkpoint import read_checkpoint
from consistency.teachers.exported import write_exported
from tests.conftest import SMALL, run

FULL = OSError(errno.ENOSPC, "No space left on device")
GOOD = {"state_dict": {"model.w": torch.ones(2)}, "config": {}, "callbacks": {}, "global_step": 3}


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(atomic, "_missed", set())


@pytest.fixture
def full(monkeypatch):
    """No file can be renamed into its place, the last thing that is done."""

    def refuse(*_):
        raise FULL

    return lambda: monkeypatch.setattr(Path, "replace", refuse)


def zip_writer(reason=FULL):
    """What torch raises when its zip writer could not write."""
    error = RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")
    error.__context__ = reason
    return error


def half_written(path, error):
    """A write that fails in the middle."""
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FULL, "No space left on device"),
        (OSError(errno.EROFS, "Read-only file system"), "Read-only file system"),
        (OSError("10 requested and 0 written"), "10 requested and 0 written"),
        (zip_writer(), "No space left on device"),
        (zip_writer(None), "the disk is full, or refused"),
        (SafetensorError("Error: I/O error: No space left on device (os error 28)"), "No space left"),
    ],
)
def test_a_refusal_is_a_line_that_names_the_file_and_nothing_is_left(tmp_path, error, said):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(Unwritable, match=rf"a\.txt cannot be written \({said}"):
        half_written(tmp_path / "a.txt", error)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("shapes differ"), ValueError("x")])
def test_any_other_failure_stays_what_it_is_and_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)) as raised:
        half_written(tmp_path / "a.txt", error)
    assert raised.value is error
    assert list(tmp_path.iterdir()) == []


def test_torch_hides_the_reason_and_the_line_still_names_the_file(tmp_path, monkeypatch):
    AtomicCheckpointIO().save_checkpoint(GOOD, tmp_path / "last.ckpt")

    def half(checkpoint, file):
        file.write(b"half")
        raise zip_writer()

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(Unwritable, match=r"last\.ckpt cannot be written \(No space left on device\)"):
        AtomicCheckpointIO().save_checkpoint({**GOOD, "global_step": 4}, tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == 3


WRITERS = {
    "result.json": lambda d: write_result(d, {"metrics": {}}),
    "config.yaml": lambda d: KeepConfig({"seed": 0}).on_train_start(trainer(d), None),
    "1step.png": lambda d: SampleGrid(str(d))._write("1step", torch_picture(), trainer(d)),
    "last.schedule.json": lambda d: keep_lists(d / "last.ckpt", "0" * 64, {"2step": SigmaList([80.0, 1.0])}),
    "weights.safetensors": lambda d: write_exported(d / "weights.safetensors", {"w": torch.ones(2)}, {}),
}


def trainer(directory):
    return SimpleNamespace(is_global_zero=True, default_root_dir=str(directory), loggers=[], global_step=1)


def torch_picture():
    from PIL import Image

    return Image.new("L", (4, 4))


@pytest.mark.parametrize("name", WRITERS)
def test_every_file_of_a_run_is_whole_or_named(tmp_path, full, name):
    WRITERS[name](tmp_path)
    assert (tmp_path / name).is_file()
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    full()
    with pytest.raises(Unwritable, match=rf"{name} cannot be written"):
        WRITERS[name](tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_cache_that_cannot_be_kept_costs_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    memo = Memo(tmp_path / "file" / "numbers")
    for seed in (0, 1):
        assert memo.once(Card({}, {"seed": seed}, {}), lambda: [1.0]) == [1.0]
    write_reference(tmp_path / "file" / "reference" / "a.safetensors", {"floor": torch.ones(1)})
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2  # one for each folder
    assert all(line.endswith("going on without") for line in lines)


def test_an_array_is_not_written_through_a_map_that_would_kill_the_process(tmp_path, monkeypatch):
    with Array(tmp_path / "a.npy", (4, 2), torch.uint8) as array:
        array.keep(range(0, 2), torch.full((2, 2), 7, dtype=torch.uint8))
        assert (array.has(range(0, 2)), array.has(range(2, 4))) == (True, False)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, limit[1]))
        try:
            with pytest.raises(Unwritable, match=r"a\.partial\.npy cannot be written \(File too large\)"):
                array.keep(range(2, 4), torch.ones(2, 2, dtype=torch.uint8))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        assert not array.has(range(2, 4))
        array.keep(range(2, 4), torch.ones(2, 2, dtype=torch.uint8))
    assert not (tmp_path / "a.partial.npy").exists()


def test_the_first_error_is_the_one_that_is_told(tmp_path, capsys):
    saved = []

    def save(path):
        saved.append(path)
        raise Unwritable(path, "No space left on device")

    run_of = SimpleNamespace(global_step=7, save_checkpoint=save, is_global_zero=True)
    for error, tried in ((Unwritable(tmp_path, "full"), 0), (RuntimeError("ours"), 1)):
        checkpoints = Checkpoints(str(tmp_path))
        checkpoints.saved = 3
        saved.clear()
        checkpoints.on_exception(run_of, None, error)  # raises nothing that would hide it
        assert len(saved) == tried
    checkpoints.saved = 3
    with pytest.raises(Unwritable):  # "saved" would be a lie
        checkpoints.on_exception(run_of, None, Interrupted(15, 7))


def test_the_thread_of_tensorboard_fails_in_one_line(tmp_path, monkeypatch, capfd):
    former = threading.excepthook
    board = Board(tmp_path, name="", version="tensorboard")
    try:
        board.log_metrics({"a": 1.0}, step=1)
        board.save()
        thread = board.experiment.file_writer.event_writer._async_writer._worker

        def refuse(data):
            raise FULL

        monkeypatch.setattr(thread._record_writer, "write", refuse)
        board.log_metrics({"a": 2.0}, step=2)
        thread.join(10)
        with pytest.raises(Unwritable, match=r"tensorboard cannot be written \(No space left"):
            board.log_metrics({"a": 3.0}, step=3)
        board.finalize("failed")
        assert capfd.readouterr().err == ""
        assert isinstance(threading.excepthook, Quiet)
    finally:
        threading.excepthook = former


def test_a_line_is_said_once_for_a_folder(tmp_path, capsys):
    for name in ("a", "b"):
        with dispensable():
            raise Unwritable(tmp_path / name, "full")
    assert capsys.readouterr().err.count("going on without") == 1


class SmallFiles(Callback):
    """From step 15 on no file may be larger than 100 kB, once: what a checkpoint takes."""

    def __init__(self, directory):
        self.mark = Path(directory) / "limited"

    def on_train_batch_start(self, trainer, *_):
        if trainer.global_step == 15 and not self.mark.exists():
            self.mark.touch()
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))


def test_a_checkpoint_that_is_too_large_ends_the_run_and_the_last_one_stands(tmp_path):
    words = [*SMALL, "threads=1", "trainer.max_steps=30", "trainer.val_check_interval=30"]
    words += ["callbacks.checkpoints.every=10"]
    limited = f"+callbacks.small={{_target_: tests.test_disk.SmallFiles, directory: {tmp_path}/run}}"
    straight = run("train.py", tmp_path / "straight", *words)
    ended = run("train.py", tmp_path / "run", *words, limited)
    ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert ended.status == 1
    assert ended.err.startswith(f"error: {ckpt} cannot be written (File too large)")
    assert ended.err.count("\n") == 1
    assert read_checkpoint(ckpt)["global_step"] == 10
    assert [path.name for path in ckpt.parent.iterdir()] == ["last.ckpt"]
    again = run("train.py", tmp_path / "run", *words, limited, "ckpt_path=last")
    assert again.status == 0, again.err
    assert again.raw == straight.raw


def test_a_signal_while_a_temporary_file_is_made_leaves_none(tmp_path, monkeypatch):
    def stopped(path):
        path.touch()
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "create", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "a.txt", "a")
    assert not [*tmp_path.iterdir()]
