"""Sweeps that can be trusted: runs found by what they are, none left behind, failures among the results."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import OmegaConf

from consistency.errors import UserError
from consistency.process.lifeline import VARIABLE
from consistency.process.naming import LOCK
from consistency.quoting import quoted
from consistency.sweep import child
from consistency.sweep.child import Ended, ValidationReport, child_environment
from consistency.sweep.command import command_to_go_on
from consistency.sweep.foreign import Foreign
from consistency.sweep.identity import found_among, override_settings, same_run, varied
from consistency.sweep.outlook import optimised_value
from consistency.sweep.pool import Pool
from consistency.sweep.runs import Run, RunState, keep_fault, order, plan_run, run_in, runs_of
from consistency.sweep.single import check_free, check_keys, check_no_run
from consistency.sweep.table import Table, table_text
from consistency.sweep.work import Sweep, conclude_sweep
from tests.conftest import ROOT, SMALL, run
from tests.waits import ended, until


def pool(size, go_on):
    return closing(Pool(size, go_on))


def now():
    return time.strftime("%Y-%m-%d %H:%M:%S")


FAKE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from consistency.process.lifeline import is_sweep_run, open_lifeline, send_report
from consistency.process.stops import Stopped, heard

open_lifeline()
given = dict(word.partition("=")[::2] for word in sys.argv[1:])
place = Path(given["run_dir"])
(place / "checkpoints").mkdir(exist_ok=True)
(place / "began").open("a").write(" ".join(sys.argv[1:]) + "\\n")
print("hello from", given["do"], flush=True)

def finish(**more):
    result = {"metrics": {"FD/1step": 2.0}, "seconds": 1.0, "overrides": sys.argv[1:]}
    (place / "result.json").write_text(json.dumps(result | more))

try:
    with heard():
        if (place / "broken").exists():
            send_report(failed="ckpt_path=x is damaged", state="failed")
            sys.exit(1)
        match given["do"]:
            case "finish":
                finish()
            case "spoil":
                finish(verdict={"fault": "it ended worse"})
                send_report(failed="the run: it ended worse", state="diverged")
                sys.exit(1)
            case "fail":
                send_report(failed="data.root=x: no such folder", state="failed")
                sys.exit(1)
            case "diverge":
                send_report(failed="the loss is not finite", state="diverged")
                sys.exit(1)
            case "vanish":
                __import__("shutil").rmtree(place)
            case "crash":
                sys.exit(7)
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "work":
                assert is_sweep_run() and "CONSISTENCY_LIFELINE" not in os.environ
                send_report(step=10, value=3.0)
                send_report(step=20, value=None)
                while True:
                    time.sleep(0.01)
except Stopped as stopped:
    (place / "checkpoints" / "last.ckpt").write_text("saved")
    sys.exit(stopped.status)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Runs that need no torch."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(child, "program", lambda: [sys.executable, str(script)])
    monkeypatch.setattr("sys.argv", ["train.py", "-m", "do=x"])
    return tmp_path / "X"


def sweep(directory, *things, size=2, **more):
    """All runs of a sweep, each of which does a thing."""
    with pool(size, ["ckpt_path=last"]) as processes:
        there = runs_of(directory) if directory.is_dir() else []
        known = {run.directory: override_settings(run.overrides) for run in there}
        made = Sweep(directory, processes, lambda overrides, number: str(number), known=known, **more)
        return made.all([thing.split() for thing in things])


def states(runs):
    return [run.state for run in runs]


class TestIdentity:
    def test_spelling_order_and_place_do_not_matter(self):
        a = ["optimizer.lr=1e-4", "seed=1", "run_dir=a", "experiment='x'"]
        assert same_run(
            a, ["experiment=x", "seed=1", "optimizer.lr=0.0001", "ckpt_path=last", "hydra.verbose=true"]
        )
        assert not same_run(a, ["experiment=x", "seed=2", "optimizer.lr=0.0001"])
        assert not same_run(["net.shape=[1,2]"], ["net.shape=[2,1]"])
        assert same_run(["+a={x: 1, y: b}"], ["+a={y: 'b', x: 1}"])

    def test_another_checkpoint_makes_another_run(self):
        assert not same_run(["ckpt_path=a.ckpt"], ["ckpt_path=b.ckpt"])
        assert not same_run(["ckpt_path=a.ckpt"], [])
        assert (
            found_among(
                [override_settings(["ckpt_path=a.ckpt"])],
                override_settings(["ckpt_path=b.ckpt"]),
                {"ckpt_path"},
            )
            is None
        )

    def test_a_run_is_found_by_what_it_is_not_by_its_number(self):
        known = [override_settings([f"seed={seed}"]) for seed in (1, 2, 3)]
        wanted = [override_settings([f"seed={seed}"]) for seed in (3, 4, 1)]
        assert [found_among(known, one, {"seed"}) for one in wanted] == [2, None, 0]

    def test_a_longer_run_is_the_same_one_unless_lengths_are_compared(self):
        short, longer = (override_settings(["seed=1", f"trainer.max_steps={k}"]) for k in (10, 20))
        assert found_among([short], longer, set()) == 0
        assert found_among([short], longer, {"trainer.max_steps"}) is None
        assert (
            found_among([short, longer], override_settings(["seed=1", "trainer.max_steps=30"]), set()) is None
        )

    def test_fewer_steps_are_another_run(self):
        short, longer = (override_settings(["seed=1", f"trainer.max_steps={k}"]) for k in (10, 20))
        assert found_among([longer], short, set()) is None

    @pytest.mark.parametrize("key", ["teacher.path", "data.root", "data_dir", "store.path"])
    def test_what_lies_elsewhere_may_be_something_else(self, key):
        assert found_among([override_settings([f"{key}=A"])], override_settings([f"{key}=B"]), set()) is None

    def test_mappings_with_keys_of_several_kinds(self):
        assert same_run(["+x={b:1,1:2}"], ["+x={1:2,b:1}"])
        assert not same_run(["+x={b:1,1:2}"], ["+x={b:1,1:3}"])

    @pytest.mark.parametrize("key", ["run_dir", "trust", "hydra.verbose", "+hydra.x"])
    def test_what_makes_no_other_run_is_not_varied(self, key):
        with pytest.raises(UserError, match=re.escape(f"{key} cannot be swept over")):
            check_keys({"seed", key})
        check_keys({"seed", "optimizer.lr"})

    def test_what_changes_weights_makes_another_run(self):
        (one,) = [override_settings(["optimizer.lr=1e-3"])]
        assert found_among([one], override_settings(["optimizer.lr=1e-4"]), set()) is None

    def test_what_varies(self):
        assert varied([["a=1", "b=2"], ["b=3", "a=1"], ["a=1", "b=2", "c=1"]]) == {"b", "c"}


class TestStates:
    def test_each(self, tmp_path):
        made = [plan_run(tmp_path / str(i), [f"seed={i}"]).directory for i in range(7)]
        (made[1] / "checkpoints").mkdir()
        keep_fault(made[2], RunState.FAILED, "one\nline \x1b[31mred")
        keep_fault(made[3], RunState.PRUNED, "worse than others")
        result = {"metrics": {"FD/1step": None, "a": 1}, "seconds": 3}
        (made[4] / "result.json").write_text(json.dumps(result | {"overrides": ["seed=4", "run_dir=x"]}))
        (made[5] / "result.json").write_text(json.dumps(result | {"verdict": {"fault": "it ended worse"}}))
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        (made[6] / LOCK).write_text(json.dumps(holder))
        runs = runs_of(tmp_path)
        S = RunState
        wanted = [S.WAITING, S.STOPPED, S.FAILED, S.PRUNED, S.FINISHED, S.DIVERGED, S.RUNNING]
        assert states(runs) == wanted
        assert [run.is_settled for run in runs] == [False, False, False, True, True, True, False]
        assert runs[2].reason == "one line red"
        assert runs[4].metrics == {"a": 1.0}
        shown = table_text(runs)
        assert [line.split(" | ")[2] for line in shown.splitlines()[2:9]] == [str(state) for state in wanted]
        assert "- run 2, failed: one line red" in shown

    def test_a_result_of_other_overrides_is_not_the_end(self, tmp_path):
        plan_run(tmp_path / "0", ["seed=1", "trainer.max_steps=20"])
        (tmp_path / "0" / "checkpoints").mkdir()
        result = {"metrics": {}, "overrides": ["seed=1", "trainer.max_steps=10"]}
        (tmp_path / "0" / "result.json").write_text(json.dumps(result))
        assert run_in(tmp_path / "0").state is RunState.STOPPED

    def test_a_number_that_another_process_has_since_is_nobody_at_work(self, tmp_path):
        plan_run(tmp_path / "0", ["seed=1"])
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": "2020-01-01 00:00:00"}
        (tmp_path / "0" / LOCK).write_text(json.dumps(holder))
        assert run_in(tmp_path / "0").state is RunState.WAITING

    def test_no_state_but_those_without_a_result_is_believed(self, tmp_path):
        plan_run(tmp_path / "0", ["seed=1"])
        for state in (RunState.FINISHED, RunState.RUNNING, RunState.WAITING):
            keep_fault(tmp_path / "0", state, "")
            with pytest.raises(UserError, match=r"failed\.json is damaged"):
                run_in(tmp_path / "0")

    @pytest.mark.parametrize(
        "overrides", [["seed=" + "9" * 5000], ["a=1"] * 2000, ["a=[" + "1," * 20_000 + "1]"]]
    )
    def test_command_lines_that_take_long_to_read_are_damaged(self, overrides, tmp_path):
        (tmp_path / "0").mkdir()
        (tmp_path / "0" / "overrides.json").write_text(json.dumps(overrides))
        with pytest.raises(UserError, match=r"overrides\.json is damaged"):
            runs_of(tmp_path)

    def test_numbers_come_in_their_order(self, tmp_path):
        names = ["10", "2", "b", "0", "a", "1" * 5000]
        assert sorted(names, key=lambda name: order(tmp_path / name)) == [
            "0",
            "2",
            "10",
            "1" * 5000,
            "a",
            "b",
        ]

    def test_a_pipe_in_place_of_a_lock_is_not_read(self, tmp_path):
        plan_run(tmp_path / "0", ["seed=1"])
        os.mkfifo(tmp_path / "0" / LOCK)
        assert run_in(tmp_path / "0").state is RunState.WAITING

    def test_a_run_and_a_sweep_do_not_share_a_directory(self, tmp_path):
        plan_run(tmp_path / "X" / "0", ["seed=1"])
        with pytest.raises(
            UserError, match=r"run_dir=.*X is the directory of a sweep, which goes on by its own command"
        ):
            check_free(tmp_path / "X")
        (tmp_path / "Y" / "checkpoints").mkdir(parents=True)
        with pytest.raises(
            UserError, match=r"run_dir=.*Y holds a run, and a sweep needs a directory of its own"
        ):
            check_no_run(tmp_path / "Y")


class TestCommand:
    @pytest.mark.parametrize(
        "value",
        [
            "a",
            "a/b.c",
            "a b",
            "josé (1)",
            "it's",
            "a\\",
            "a\\'b",
            "x=y",
            "1e3",
            "null",
            "a,b",
            "[x]",
            "True",
            "~/x",
            "",
        ],
    )
    def test_a_quoted_value_comes_back(self, value):
        (override,) = OverridesParser.create().parse_overrides([f"run_dir={quoted(value)}"])
        assert override.value() == value
        assert isinstance(override.value(), str)

    def test_the_directory_is_named_once(self, monkeypatch, tmp_path):
        monkeypatch.setattr("sys.argv", ["train.py", "-m", "seed=1,2", "a='b c'"])
        assert shlex.split(command_to_go_on(tmp_path)) == [
            "python",
            "train.py",
            "-m",
            "seed=1,2",
            "a='b c'",
            f"run_dir={tmp_path}",
        ]
        monkeypatch.setattr("sys.argv", ["train.py", "-m", "run_dir=X"])
        assert command_to_go_on(tmp_path) == "python train.py -m run_dir=X"


class TestRuns:
    def test_all_run_and_each_has_its_state(self, fake, capfd):
        things = ["fail", "finish", "spoil", "diverge", "crash", "die"]
        runs = sweep(fake, *(f"do={thing}" for thing in things), table=Table())
        S = RunState
        assert states(runs) == [S.FAILED, S.FINISHED, S.DIVERGED, S.DIVERGED, S.FAILED, S.FAILED]
        assert [run.reason for run in runs] == [
            "data.root=x: no such folder",
            None,
            "it ended worse",
            "the loss is not finite",
            "its process ended with status 7 and no result",
            "its process was ended by SIGKILL",
        ]
        out = capfd.readouterr().out
        assert "[1] hello from finish\n" in out
        assert re.search(
            r"^run 0 +failed: data.root=x: no such folder \(\d+ s\); \d to go, about 0:00:", out, re.M
        )
        with pytest.raises(UserError) as error:
            conclude_sweep(fake, Table())
        advice = f"try again with python train.py -m do=x run_dir={fake}"
        assert str(error.value) == f"2 diverged, 3 failed of 6 runs: {advice}"

    def test_what_has_ended_is_left_alone_whatever_the_order(self, fake, capfd):
        first = sweep(fake, "do=finish seed=1", "do=finish seed=2", "do=diverge seed=1", "do=fail")
        before = [(run.directory / "began").read_text() for run in first]
        more = sweep(fake, "do=fail", "do=finish seed=3", "do=diverge seed=1", "seed=2 do=finish")
        assert [run.name for run in more] == ["3", "4", "2", "1"]
        after = [(run.directory / "began").read_text() for run in first]
        assert after[:3] == before[:3]
        assert after[3].count("\n") == 2  # a failed run is tried again
        assert "4 runs in" in capfd.readouterr().out

    def test_a_value_that_is_given_twice_is_one_run(self, fake):
        one, two = sweep(fake, "do=finish lr=1e-3", "do=finish lr=0.001")
        assert one == two
        assert (one.directory / "began").read_text().count("\n") == 1

    def test_an_evaluation_is_made_again(self, fake):
        for _ in range(2):
            with pool(1, []) as processes:
                known = {fake / "0": override_settings(["do=finish"])} if fake.is_dir() else {}
                made = Sweep(fake, processes, lambda overrides, number: str(number), known=known)
                made.all([["do=finish"]], repeat=True)
        assert (fake / "0" / "began").read_text().count("\n") == 2

    def test_an_evaluation_that_fails_when_it_is_made_again_has_failed(self, fake):
        sweep(fake, "do=finish")
        (fake / "0" / "broken").touch()
        with pool(1, []) as processes:
            known = {fake / "0": override_settings(["do=finish"])}
            made = Sweep(fake, processes, lambda overrides, number: str(number), known=known)
            (run,) = made.all([["do=finish"]], repeat=True)
        assert (run.state, run.reason) == (RunState.FAILED, "ckpt_path=x is damaged")
        assert run_in(fake / "0").state is RunState.FAILED

    def test_values_that_come_in_several_batches_are_runs_of_their_own(self, fake):
        with pool(1, []) as processes:
            made = Sweep(fake, processes, lambda overrides, number: str(number))
            for steps in (20, 40):
                made.all([["do=finish", f"trainer.max_steps={steps}"]], swept={"trainer.max_steps"})
        assert len(runs_of(fake)) == 2

    def test_a_run_whose_files_are_gone_hinders_no_other(self, fake):
        runs = sweep(fake, "do=vanish", "do=finish", size=1)
        assert states(runs) == [RunState.FAILED, RunState.FINISHED]
        assert "overrides.json cannot be read" in runs[0].reason

    def test_no_run_works_through_a_link_out_of_the_sweep(self, fake, tmp_path):
        plan_run(tmp_path / "elsewhere", ["do=finish"])
        fake.mkdir()
        (fake / "0").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(UserError, match=r"0 is a link to .*elsewhere, out of the run directory"):
            sweep(fake, "do=finish")
        assert not (tmp_path / "elsewhere" / "began").exists()

    @pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/x"])
    def test_the_directory_of_a_run_is_one_folder(self, fake, name):
        with (
            pool(1, []) as processes,
            pytest.raises(UserError, match=r"hydra\.sweep\.subdir=.* must name one"),
        ):
            Sweep(fake, processes, lambda overrides, number: name).all([["do=finish"]])
        assert not fake.exists()

    def test_only_the_runs_of_a_command_make_its_status(self, fake):
        (_, made) = sweep(fake, "do=fail", "do=finish")
        conclude_sweep(fake, Table(), {made.directory})
        with pytest.raises(UserError, match="1 failed of 2 runs"):
            conclude_sweep(fake, Table())

    def test_other_launchers_leave_a_run_of_another_name_what_it_is(self, tmp_path):
        plan_run(tmp_path, ["seed=1"])
        hydra = {"mode": RunMode.MULTIRUN, "runtime": {"output_dir": str(tmp_path)}}
        config = OmegaConf.create({"hydra": {**hydra, "overrides": {"task": ["seed=3"]}}})
        Foreign().on_job_start(config)
        error = JobReturn(status=JobStatus.FAILED, _return_value=UserError("holds a run already"))
        Foreign().on_job_end(config, error)
        assert run_in(tmp_path).overrides == ("seed=1",)
        assert run_in(tmp_path).state is RunState.WAITING

    def test_a_run_that_has_begun_goes_on_from_its_checkpoint(self, fake):
        plan_run(fake / "0", ["do=finish"])
        (fake / "0" / "checkpoints").mkdir()
        (fake / "0" / "checkpoints" / "last.ckpt").touch()
        (run,) = sweep(fake, "do=finish ckpt_path=last run_dir=elsewhere")
        assert run.state is RunState.FINISHED
        assert run.overrides == ("do=finish",)
        assert (fake / "0" / "began").read_text().split() == [
            "do=finish", "hydra.mode=RUN", f"run_dir={fake}/0", "ckpt_path=last"
        ]  # fmt: skip

    def test_a_run_with_which_nothing_was_left_to_do_is_what_its_result_says(self, fake):
        plan_run(fake / "0", ["do=idle", "threads=1"])
        (fake / "0" / "result.json").write_text(
            '{"metrics": {}, "overrides": ["do=idle", "threads=1", "run_dir=x"]}'
        )
        (run,) = sweep(fake, "do=idle threads=2")
        assert run.state is RunState.FINISHED
        assert run.overrides == ("do=idle", "threads=1")

    def test_reports_reach_the_sweep_and_letting_go_stops_a_run(self, fake):
        with pool(1, []) as processes:
            processes.start(plan_run(fake / "0", ["do=work"]))
            first, second = processes.wait(), processes.wait()
            assert [type(e) for e in (first, second)] == [ValidationReport, ValidationReport]
            assert [(e.step, e.value) for e in (first, second)] == [(10, 3.0), (20, None)]
            processes.stop_run(first.run)
            ended = processes.wait()
            assert isinstance(ended, Ended)
            assert ended.run.state is RunState.STOPPED
            assert (fake / "0" / "checkpoints" / "last.ckpt").is_file()

    def test_no_run_is_left_behind_by_an_exception(self, fake, capfd):
        with pytest.raises(ZeroDivisionError), pool(2, []) as processes:  # noqa: PT012
            for i in range(2):
                processes.start(plan_run(fake / str(i), ["do=work", f"seed={i}"]))
                processes.wait()
            raise ZeroDivisionError
        assert not processes.children
        assert all((fake / str(i) / "checkpoints" / "last.ckpt").is_file() for i in range(2))
        assert "waiting for 2 runs to save and end" in capfd.readouterr().err

    def test_a_run_of_a_sweep_that_was_killed_is_waited_for(self, fake, capfd):
        plan_run(fake / "0", ["do=finish"])
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as orphan:
            holder = {"pid": orphan.pid, "host": socket.gethostname(), "since": now()}
            (fake / "0" / LOCK).write_text(json.dumps(holder))
            threading.Timer(0.5, lambda: (orphan.kill(), orphan.wait())).start()
            (run,) = sweep(fake, "do=finish")
        assert run.state is RunState.FINISHED
        assert f"run 0        is at work still: waiting for process {orphan.pid}" in capfd.readouterr().out

    def test_no_less_than_one_at_a_time(self):
        with pytest.raises(UserError, match=r"hydra\.launcher\.n_jobs=0 must be a whole number"), pool(0, []):
            pass
        for size in (None, "abc", 1.5, True):
            with pytest.raises(UserError, match="must be a whole number"), pool(size, []):
                pass

    def test_runs_side_by_side_share_the_cpu(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: 8)
        assert "OMP_NUM_THREADS" not in child_environment(3, 1)
        assert child_environment(3, 2)["OMP_NUM_THREADS"] == "4"
        assert child_environment(3, 100)["OMP_NUM_THREADS"] == "1"
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert child_environment(3, 2)["OMP_NUM_THREADS"] == "3"

    def test_the_value_of_a_run(self, tmp_path):
        made = Run(tmp_path, (), RunState.FINISHED, {"metrics": {"FD/1step": 2.0, "FD/2step": None}})
        assert optimised_value(made, "1step") == optimised_value(made, "FD/1step") == 2.0
        assert [optimised_value(made, name) for name in ("2step", "3step", None)] == [None] * 3


HOLDER = f"""
import os, socket, subprocess, sys, time
ours, theirs = socket.socketpair()
env = {{**os.environ, {VARIABLE!r}: str(theirs.fileno())}}
print(subprocess.Popen(sys.argv[1:], pass_fds=[theirs.fileno()], env=env).pid, flush=True)
theirs.close()
time.sleep(3000)
"""


def gone(number):
    """Whether a process has ended."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    return False


class TestLifeline:
    def started(self, fake):
        """A process that holds the other end of a run's line, and the number of the run."""
        fake.mkdir()
        command = [sys.executable, str(fake.parent / "fake.py"), "do=work", f"run_dir={fake}"]
        sweep = subprocess.Popen([sys.executable, "-c", HOLDER, *command], stdout=subprocess.PIPE, text=True)
        number = int(sweep.stdout.readline())
        until((fake / "began").is_file, "the run to begin", sweep)
        return sweep, number

    def test_a_run_whose_sweep_is_killed_saves_and_ends(self, fake):
        sweep, number = self.started(fake)
        time.sleep(0.3)
        sweep.kill()
        sweep.wait()
        sweep.stdout.close()
        until(lambda: gone(number), "the run to end")
        assert (fake / "checkpoints" / "last.ckpt").is_file()

    def test_a_signal_to_both_counts_once(self, fake):
        sweep, number = self.started(fake)
        time.sleep(0.3)
        os.kill(number, signal.SIGINT)
        sweep.kill()
        sweep.wait()
        sweep.stdout.close()
        until(lambda: gone(number), "the run to end")
        assert (fake / "checkpoints" / "last.ckpt").is_file()

    @pytest.mark.parametrize("number", ["", "x", "-1", "0", "9999", "1.5"])
    def test_a_number_that_leads_nowhere_is_no_line(self, number):
        code = "from consistency.process.lifeline import *; open_lifeline(); send_report(step=1)"
        code += "; print(is_sweep_run())"
        env = {**os.environ, VARIABLE: number}
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert (done.stdout, done.stderr) == ("False\n", "")


class TestCommands:
    """A sweep of real runs is stopped; then come its own command, one of its runs, and more seeds."""

    OPTIONS = [
        "method=ict",
        "data=moons",
        "budget=points",
        "threads=1",
        *SMALL,
        "callbacks.checkpoints.every=5",
    ]
    OPTIONS += ["trainer.val_check_interval=1000000"]

    def test_stopped_and_gone_on_with(self, tmp_path):
        place = f"run_dir={quoted(str(tmp_path / 'a sweep'))}"
        command = ["train.py", "sweep=joblib", *self.OPTIONS, "trainer.max_steps=1500", "seed=1,2", place]
        first = begun(command)
        last = [tmp_path / "a sweep" / number / "checkpoints" / "last.ckpt" for number in "01"]
        until(lambda: all(path.is_file() for path in last), "the first checkpoints", first)
        first.send_signal(signal.SIGTERM)
        _, err = ended(first)
        assert first.returncode == 143
        steps = re.findall(
            r"^\[([01])\] stopped by SIGTERM at step (\d+), saved; the sweep goes on", err, re.M
        )
        assert len(steps) == 2
        assert "waiting for 2 runs to save and end" in err
        (line,) = re.findall(r"^stopped by SIGTERM: 2 stopped; go on with (.*)$", err, re.M)
        assert shlex.split(line) == ["python", *command]

        # the order of the seeds is another, one is new, and all get one step more
        longer = {"seed=1,2": "seed=3,2,1", "trainer.max_steps=1500": "trainer.max_steps=1501"}
        second = begun([longer.get(option, option) for option in command])
        out, err = ended(second)
        assert second.returncode == 0, err
        assert len(re.findall(r"resuming from .*a sweep/[01]/checkpoints/last.ckpt", out)) == 2
        runs = {each.name: each.result for each in runs_of(tmp_path / "a sweep")}
        assert {name: result["seed"] for name, result in runs.items()} == {"0": 1, "1": 2, "2": 3}
        assert {result["steps"] for result in runs.values()} == {1501}
        single = run("train.py", tmp_path / "a sweep", *self.OPTIONS)
        assert single.status == 1
        assert "is the directory of a sweep, which goes on by its own command" in single.err


def begun(command):
    return subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


WORKER = """
import subprocess, sys, time
code = '''
import sys, time
from pathlib import Path
from consistency.console import in_a_worker
with in_a_worker():
    Path(sys.argv[1], "began").touch()
    while True:
        time.sleep(0.01)
'''
print(subprocess.Popen([sys.executable, "-c", code, sys.argv[1]]).pid, flush=True)
time.sleep(3000)
"""


def test_a_worker_of_another_launcher_ends_with_it(tmp_path):
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as launcher:
        number = int(launcher.stdout.readline())
        until((tmp_path / "began").exists, "the worker to begin", launcher)
        launcher.kill()
    until(lambda: gone(number), "the worker to end")


def test_runs_of_another_launcher_leave_the_same_files(tmp_path):
    options = ["method=ict", "data=moons", "budget=points", "threads=1", *SMALL, "trainer.max_steps=10"]
    swept = run("train.py", tmp_path, "-m", "hydra/launcher=basic", *options, "optimizer.lr=-1,1e-3")
    assert swept.status == 1
    assert [each.state for each in runs_of(tmp_path)] == [RunState.FAILED, RunState.FINISHED]
    assert "- run 0, failed: optimizer: Invalid learning rate: -1" in (tmp_path / "table.md").read_text()
    assert "error: 1 failed of 2 runs: try again with python" in swept.err
