"""One directory, one run: locked while it is at work, under a name that no other run has."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from consistency.errors import UserError
from consistency.files import directory as directories
from consistency.files.directory import NAME, alone_in
from consistency.lit.peers import check_same_facts, is_alive, is_lost, missing
from consistency.process import rank
from consistency.process.naming import VARIABLE, make_name, name_run, started_by_lightning
from tests.conftest import CD_MOONS, ROOT, SMALL, run
from tests.sessions import composed
from tests.waits import ended, until

LAUNCHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "GROUP_RANK", "TORCHELASTIC_RUN_ID")
LAUNCHERS += ("SLURM_PROCID", "SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_NTASKS", "SLURM_RESTART_COUNT")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for variable in (*LAUNCHERS, VARIABLE):
        monkeypatch.delenv(variable, raising=False)


def holding(place):
    """Another process that holds a directory."""
    code = "import sys; from pathlib import Path; from consistency.files.directory import alone_in\n"
    code += "with alone_in(Path(sys.argv[1])): print('held', flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_first_ones_name_and_writes_nothing(tmp_path):
    holder = holding(tmp_path)
    before = (tmp_path / NAME).read_text()
    second = run("train.py", tmp_path, *SMALL, "trainer.max_steps=4")
    evaluation = run("eval.py", tmp_path, "task=compare", "task.results=[data,docs]")
    for refused in (second, evaluation):
        assert refused.status == 1
        assert refused.err.startswith(f"error: run_dir={tmp_path} is in use by process {holder.pid} on ")
        assert refused.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    assert (tmp_path / NAME).read_text() == before
    holder.kill()
    holder.communicate()
    with alone_in(tmp_path):  # whoever was killed holds nothing
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()
    assert (tmp_path / NAME).read_text() == ""


def test_others_of_a_group_rely_on_the_first(tmp_path):
    with alone_in(tmp_path), alone_in(tmp_path, first=False):
        pass


def test_a_file_system_without_locks_costs_a_line(tmp_path, monkeypatch, capsys):
    class Lockless:
        def __init__(self, *_, **__):
            pass

        def acquire(self, **_):
            raise NotImplementedError

    monkeypatch.setattr(directories, "FileLock", Lockless)
    with alone_in(tmp_path):
        pass
    assert "without locks" in capsys.readouterr().err


def test_names_of_one_second_differ_and_are_those_of_the_directories():
    names = set()
    for _ in range(20):
        with name_run():
            names.add(os.environ[VARIABLE])
            run_dir = composed("eval").run_dir
            assert run_dir == f"runs/eval/{os.environ[VARIABLE]}"
        assert VARIABLE not in os.environ
    assert len(names) == 20


def test_a_name_left_in_the_environment_is_not_taken(monkeypatch):
    monkeypatch.setenv(VARIABLE, "of another run")
    with name_run():
        assert os.environ[VARIABLE] != "of another run"
    assert os.environ[VARIABLE] == "of another run"
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert started_by_lightning()
    with name_run():
        assert os.environ[VARIABLE] == "of another run"


def test_under_slurm_the_name_follows_from_job_and_step(monkeypatch):
    for variable, value in {"JOB_ID": "12", "STEP_ID": "3", "NTASKS": "4", "PROCID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{variable}", value)
    assert make_name() == "slurm-12.3"
    assert not rank.is_first()
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert make_name() == "slurm-12.3-2"
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert not make_name().startswith("slurm")


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_who_is_first(monkeypatch, environment, first):
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert rank.is_first() == first
    assert rank.speaks_for({"devices": 2}) == first
    assert rank.speaks_for({"devices": 1})


def test_processes_that_differ_are_refused_by_name(monkeypatch):
    said = [{"run_dir": "a", "seed": "0"}, {"run_dir": "a", "seed": "1"}]
    monkeypatch.setattr("consistency.lit.peers.everybodys", lambda mine: said)
    with pytest.raises(UserError, match="seed is 0 on process 0 and 1 on process 1"):
        check_same_facts(said[0])
    said[1]["seed"] = "0"
    check_same_facts(said[0])


def test_a_process_that_was_killed_is_known_to_be_dead_before_its_parent_asks():
    process = subprocess.Popen(["sleep", "60"])
    assert is_alive(process.pid)
    process.kill()
    until(lambda: not is_alive(process.pid), "the killed process to be known as dead")
    process.wait()
    assert not is_alive(process.pid)


def test_which_errors_are_those_of_the_others():
    gloo = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:9")
    assert is_lost(gloo)
    wrapped = ValueError("in a callback")
    wrapped.__cause__ = gloo
    assert is_lost(wrapped)
    assert not is_lost(RuntimeError("shapes differ"))
    assert not is_lost(None)
    assert missing([1], 2) == "process 1 of 2 has died"
    assert missing([0, 2], 4) == "processes 0 and 2 of 4 have died"


# --- several processes, for real ---------------------------------------------------------------------------

TEACHER = [
    *CD_MOONS,
    "trainer=ddp_sim",
    "net.width=32",
    "net.blocks=1",
    "data.samples=64",
]
TEACHER += ["data.sample_batch=16", "trainer.max_steps=30", "trainer.val_check_interval=30"]
TEACHER += ["callbacks.checkpoints.every=8", 'teacher_run.overrides=["trainer.max_steps=8"]']
TEACHER += ["+callbacks.poison={_target_: tests.test_guard.Poison, directory: x, step: 20}"]
TEACHER += ["+callbacks.mark={_target_: tests.marks.Mark, directory: '${hydra:runtime.output_dir}'}"]


def launched(cwd, script, *words, options=("--standalone",)):
    """torchrun with two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", *options, "--nproc-per-node", "2"]
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    return subprocess.Popen(
        [*command, str(ROOT / script), *words],
        cwd=cwd,
        env={**os.environ, **quiet},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.slow
def test_a_late_process_finds_directory_teacher_and_step_of_the_first(tmp_path):
    process = launched(tmp_path, "tests/late.py", *TEACHER)
    _, err = ended(process)
    assert process.returncode == 0, err
    (place,) = (tmp_path / "runs" / "cd_moons").iterdir()
    assert err.count("rollback 1 of 3") == 1
    assert (place / "teacher" / "result.json").is_file()
    result = json.loads((place / "result.json").read_text())
    assert (result["steps"], result["rollbacks"]) == (30, 1)
    first, second = ((place / f"curriculum-{r}.txt").read_text().split()[::2] for r in (0, 1))
    assert first == second
    assert first[20:22] == ["20", "16"]  # the step that went wrong, and where both went on


@pytest.mark.slow
@pytest.mark.parametrize("agent", ["0", "1"])
def test_a_static_rendezvous_and_one_without_a_store_agree_too(tmp_path, agent, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", agent)
    options = ["--standalone"] if agent == "1" else ["--nnodes", "1", "--master-addr", "127.0.0.1"]
    words = [
        "method=ict",
        "data=moons",
        "budget=points",
        *TEACHER[5:10],
        "trainer.max_steps=4",
        "trainer.val_check_interval=4",
    ]
    process = launched(tmp_path, "train.py", *words, "curriculum.s1=11", options=options)
    _, err = ended(process)
    assert process.returncode == 0, err
    (place,) = (tmp_path / "runs" / "ict_moons").iterdir()
    assert (place / "result.json").is_file()


def ranks(process):
    """The processes of a run by rank, found among those that its first one, or torchrun, has started."""
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    found = {0: process.pid}
    for pid in map(int, listed.stdout.split()):
        variables = (Path(f"/proc/{pid}/environ").read_bytes()).split(b"\0")
        given = dict(v.split(b"=", 1) for v in variables if b"=" in v)
        found[int(given.get(b"RANK", given.get(b"LOCAL_RANK", b"0")))] = pid
    return found


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
def test_when_one_of_two_dies_the_other_ends_with_one_line(tmp_path, launcher, killed):
    place = tmp_path / "run"
    words = [*SMALL[1:], "trainer=ddp_sim", "trainer.max_steps=100000", "trainer.val_check_interval=100000"]
    words += ["callbacks.checkpoints.every=20", f"run_dir={place}"]
    if launcher == "torchrun":
        process = launched(tmp_path, "train.py", *words)
    else:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "train.py"), *words], text=True, stderr=subprocess.PIPE
        )
    until((place / "checkpoints" / "last.ckpt").exists, "the first checkpoint", process)
    os.kill(ranks(process)[killed], signal.SIGKILL)
    _, err = ended(process)  # the other one has its end of the pipe
    assert process.returncode != 0
    ours = err.partition("Traceback (most recent call last)")[0]  # what follows is torchrun's
    lines = [line for line in ours.splitlines() if "Initializing" not in line and "elastic" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"process {killed} of 2 has died: {place}/checkpoints/last.ckpt is saved; ")
    assert lines[0].endswith(f"run_dir={place} and ckpt_path=last")
    assert "train.py" not in ours
