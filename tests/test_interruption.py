"""A signal at any moment: one line that is true, and a run that ends like the undisturbed one."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from lightning import Callback

from consistency.console import guarded
from consistency.evaluate import evaluate
from consistency.lit.callbacks.averages import EMA
from consistency.process import stops
from consistency.process.stops import (
    Stopped,
    account,
    end_at_once,
    heard,
    nothing_begun,
    put_off,
    raise_again,
    settle_account,
)
from consistency.tasks.session import Outcome
from consistency.watch import collect_signals
from tests.conftest import SMALL, run, start
from tests.sessions import composed
from tests.waits import ended, until

WORDS = [
    *SMALL,
    "threads=1",
    "trainer.max_steps=20",
    "trainer.val_check_interval=1000",
    "data.sample_batch=8",
]
WORDS += ["callbacks.checkpoints.every=10"]
CLOSING = """
import os, signal
from consistency.console import guarded

class Last:
    def __del__(self, kill=os.kill, pid=os.getpid(), signum=signal.SIG):
        kill(pid, signum)

last = Last()  # goes when the interpreter has given the signals back to the system
guarded(lambda: print("done", flush=True))
"""
GO_ON = "go on with the same command, run_dir={place} and ckpt_path=last\n"


class Kill(Callback):
    """Sends a signal to its own process at a hook, of the first run of a directory.

    Args:
        directory: where it leaves a mark that it has been done.
        hook: name of the hook.
        signum: the signal.
        fn: fit or validate.
    """

    def __init__(self, directory, hook, signum=signal.SIGTERM, fn="fit"):
        self.mark, self.signum, self.fn = Path(directory) / "killed", signum, fn
        setattr(self, hook, self.kill)

    def kill(self, trainer, *_, **__):
        if trainer.state.fn == self.fn and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.signum)
            time.sleep(0.1)  # Python calls the handler between two of its instructions


def killed(directory, hook, fn="fit", signum=signal.SIGTERM):
    words = f"directory: {directory}, hook: {hook}, fn: {fn}, signum: {int(signum)}"
    return f"+callbacks.kill={{_target_: tests.test_interruption.Kill, {words}}}"


@pytest.fixture(autouse=True)
def nothing_said_before():
    stops._accounts.__init__()
    stops._signals.__init__()
    former = {signum: signal.getsignal(signum) for signum in stops.STOPPING}
    yield
    for signum, handler in former.items():
        signal.signal(signum, handler)
    stops._accounts.__init__()
    stops._signals.__init__()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    ended = run("train.py", tmp_path_factory.mktemp("straight"), *WORDS)
    assert ended.status == 0, ended.err
    return ended


# --- the exception and its account ------------------------------------------------------------------------


def test_a_signal_becomes_the_account_that_holds_when_it_comes():
    with pytest.raises(Stopped) as first, heard():
        signal.raise_signal(signal.SIGTERM)
    assert (first.value.status, first.value.line()) == (143, f"stopped by SIGTERM: {nothing_begun()}")
    with pytest.raises(Stopped) as second, heard(), account(lambda: "half is saved"):  # noqa: PT012
        settle_account(lambda: "all is saved")
        signal.raise_signal(signal.SIGINT)
    assert (second.value.status, second.value.line()) == (130, "stopped by SIGINT: all is saved")


def test_of_nested_accounts_the_outer_one_comes_back_and_the_outermost_stays():
    with account(lambda: "student"):
        with account(lambda: "teacher"):
            settle_account(lambda: "teacher has ended")
        assert stops.current() == "student"
        settle_account(lambda: "student has ended")
    assert stops.current() == "student has ended"


def test_a_second_signal_ends_the_process_at_once_without_a_traceback():
    with pytest.raises(Stopped), heard():  # noqa: PT012
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL


def test_a_signal_waits_for_the_work_to_begin():
    with pytest.raises(Stopped) as stopped, heard(waits=True):  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        begun = True
        raise_again()
    assert begun
    assert stopped.value.status == 143


@pytest.mark.parametrize("made_of_it", [AttributeError, SystemExit, None], ids=["error", "exit", "nothing"])
def test_a_signal_stays_one_whatever_a_library_makes_of_it(made_of_it, capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train.py"])
    monkeypatch.setattr("consistency.console.end_within", lambda *_: None)
    monkeypatch.setattr("consistency.console.end_at_once", lambda: None)

    def main():
        raise_again()  # the work begins
        try:
            signal.raise_signal(signal.SIGINT)
        except Stopped:
            if made_of_it is not None:  # as of objects that are half made when the signal comes
                raise made_of_it("'NoneType' object has no attribute '_invalidate_flags_cache'") from None

    with pytest.raises(SystemExit) as ended:
        guarded(main)
    assert ended.value.code == 130
    assert capsys.readouterr().err == f"stopped by SIGINT: {nothing_begun()}\n"


def test_signals_are_put_off_while_libraries_load():
    done = []
    with pytest.raises(Stopped), heard(), put_off():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        done.append(1)
    assert done == [1]


def test_a_second_signal_is_not_put_off_until_the_next_piece():
    with pytest.raises(Stopped), collect_signals() as signals:  # noqa: PT012
        signal.raise_signal(signal.SIGTERM)
        assert signals == [signal.SIGTERM]
        signal.raise_signal(signal.SIGTERM)


def test_after_the_end_a_signal_says_so_and_leaves(capfd):
    settle_account(lambda: "all was done")
    child = os.fork()
    if not child:
        end_at_once()
        signal.raise_signal(signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 143
    assert capfd.readouterr().err == "stopped by SIGTERM: all was done\n"


# --- runs -------------------------------------------------------------------------------------------------


def undisturbed(again, straight):
    assert again.status == 0, again.err
    assert again.raw == straight.raw
    assert again.result["metrics"] == straight.result["metrics"]


@pytest.mark.parametrize(
    ("hook", "fn", "kept"),
    [
        pytest.param("setup", "fit", "no step was saved yet", marks=pytest.mark.slow),
        pytest.param("on_train_end", "fit", "last.ckpt is saved", marks=pytest.mark.slow),
        ("on_validation_batch_end", "validate", "last.ckpt is saved"),
        pytest.param("on_validation_end", "validate", "last.ckpt is saved", marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_stopped_outside_training_goes_on(straight, tmp_path, hook, fn, kept):
    signum = signal.SIGINT if hook == "on_train_end" else signal.SIGTERM
    words = [*WORDS, killed(tmp_path, hook, fn=fn, signum=signum)]
    stopped = run("train.py", tmp_path, *words)
    assert stopped.status == 128 + signum
    *progress, line = stopped.err.splitlines()
    assert line.startswith(f"stopped by {signum.name}: ")
    assert kept in line
    assert stopped.err.endswith(GO_ON.format(place=tmp_path))
    assert all(each.endswith(" left") for each in progress)  # of a machine that is busy
    assert not (tmp_path / "result.json").exists()
    undisturbed(run("train.py", tmp_path, *words, "ckpt_path=last"), straight)


def test_a_checkpoint_is_not_made_of_a_step_that_was_cut_short(straight, tmp_path):
    """A second signal takes effect in the middle of a step: what is on disk is what was there before."""
    twice = killed(tmp_path, "on_before_zero_grad").replace("Kill,", "Twice,")
    stopped = run("train.py", tmp_path, *WORDS, twice)
    assert stopped.status == 143
    assert "last.ckpt is saved" in stopped.err
    undisturbed(run("train.py", tmp_path, *WORDS, twice, "ckpt_path=last"), straight)


class Twice(Kill):
    """Sends it twice, in the middle of step 15."""

    def kill(self, trainer, *_, **__):
        if trainer.global_step == 15 and not self.mark.exists():
            self.mark.touch()
            for _ in range(2):
                os.kill(os.getpid(), self.signum)
                time.sleep(0.1)


def test_the_average_leaves_the_network_before_the_run_does(monkeypatch):
    """The raw weights come back at any exception."""
    swapped = []
    ema = EMA({"ema": lambda k: 0.9}, "ema")
    monkeypatch.setattr(ema, "_swap", swapped.append)
    ema.swapped = True
    ema.on_exception(None, "module", Stopped(signal.SIGTERM))
    assert swapped == ["module"]


def test_an_evaluation_says_what_of_itself_is_kept(ckpt, tmp_path):
    words = ["task=sample", "fabric=cpu", "task.count=1000000", "task.files=true", f"ckpt_path={ckpt}"]
    process = start("eval.py", tmp_path, *words)
    until(lambda: list(tmp_path.glob("*/000000.png")), "the first picture", process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert process.returncode == 143
    (line,) = [line for line in err.splitlines() if line.startswith("stopped by")]
    assert line.startswith("stopped by SIGTERM: what was measured is kept; the same command with ")
    assert "Traceback" not in err  # though Python may warn of the picture that was being written
    assert not list(tmp_path.glob("*/.*.tmp*"))


NOTHING = f"stopped by SIGINT: {nothing_begun()}"
MEASURED = "stopped by SIGINT: what was measured is kept; the same command with run_dir={place} goes on"
MOMENTS = {  # of eval.py task=report, and what is said then
    "consistency.evaluate.check_hardware": NOTHING,
    "consistency.evaluate.Memo": NOTHING,
    "consistency.tasks.measure.ladder.Ladder.__post_init__": NOTHING,
    "consistency.evaluate.read_named": MEASURED,
    "consistency.tasks.measure.ladder.Ladder.__call__": MEASURED,
    "consistency.tasks.measure.fidelity.Fidelity.__call__": MEASURED,
    "consistency.tasks.measure.gap.Gap.__call__": MEASURED,
    "consistency.tasks.make.sample.Sample.__call__": MEASURED,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_an_evaluation_speaks_of_itself_at_any_moment(ckpt, tmp_path, monkeypatch, moment):
    """Ctrl-C before the task begins, while the checkpoint is opened, and in each part of a report."""
    monkeypatch.setattr("consistency.evaluate.run_directory", lambda: tmp_path)
    for part in (
        "measure.ladder.Ladder",
        "measure.fidelity.Fidelity",
        "measure.gap.Gap",
        "make.sample.Sample",
    ):
        monkeypatch.setattr(f"consistency.tasks.{part}.__call__", lambda *_: Outcome())
    monkeypatch.setattr(moment, lambda *_, **__: signal.raise_signal(signal.SIGINT))
    config = composed("eval", "task=report", "fabric=cpu", f"ckpt_path={ckpt}", "threads=1")
    with pytest.raises(Stopped) as stopped, heard():
        evaluate(config)
    assert stopped.value.line().startswith(MOMENTS[moment].format(place=tmp_path))
    assert "ckpt_path=last" not in stopped.value.line()


@pytest.mark.parametrize("signum", ["SIGTERM", "SIGINT"])
def test_a_signal_while_the_interpreter_closes_does_not_fail_a_run_that_has_finished(signum):
    ended = subprocess.run(
        [sys.executable, "-c", CLOSING.replace("SIG)", f"{signum})")], capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
