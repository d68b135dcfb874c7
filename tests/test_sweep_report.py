"""A sweep beside itself: on the page of task=report, and in TensorBoard."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from types import SimpleNamespace

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from torch.utils.tensorboard import SummaryWriter

from consistency.errors import UserError
from consistency.lit.callbacks.hparams import HParams, end_rows
from consistency.lit.loggers.rows import FIRST
from consistency.lit.loggers.tensorboard import Board
from consistency.process.stops import Stopped
from consistency.result import is_number
from consistency.resume import find_checkpoint
from consistency.sweep.runs import is_sweep, runs_of
from consistency.tasks.show import curves, sweep_curves, sweep_report
from consistency.tasks.show.compare import read_numbers
from consistency.tasks.show.report import Report
from consistency.tasks.show.sweep_report import better_value, run_labels
from consistency.teach import teacher_directory
from tests.conftest import SMALL, run
from tests.sessions import checkpoint, session, train_here
from tests.test_report import Reader
from tests.waits import LIMIT, until

COMMON = ["method=ict", "data=moons", "budget=points", "trainer.max_steps=20"]
CURVES = {"SW2/1step": [3.0, 2.0], "SW2/floor": [0.1, 0.1], "train/loss": [1.0, 0.5], "train/lr": [1.0, 2.0]}


def made(sweep, name, *own, result=None, fault=None, begun=False, at_work=False, logged=None, picture=None):
    """The directory of a run of a sweep, as the run would leave it."""
    directory = sweep / name
    directory.mkdir(parents=True)
    overrides = [*COMMON, *own]
    (directory / "overrides.json").write_text(json.dumps(overrides))
    if result is not None:
        plain = {"overrides": overrides, "seconds": 4.0, "commit": "0123456", "device": "cpu x 1", **result}
        (directory / "result.json").write_text(json.dumps(plain))
    if fault is not None:
        (directory / "failed.json").write_text(json.dumps(fault))
    if begun:
        (directory / "checkpoints").mkdir()
    if at_work:
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        (directory / ".lock").write_text(json.dumps(about))
    if logged is not None:
        log(directory / "tensorboard", logged)
    if picture is not None:
        (directory / "samples").mkdir()
        Image.new("L", (8, 8), 200).save(directory / "samples" / f"{picture}.png")
    return directory


def log(directory, values):
    """Curves in a log of TensorBoard, a point every ten steps."""
    with SummaryWriter(str(directory)) as writer:
        for name, points in values.items():
            for i, value in enumerate(points):
                writer.add_scalar(name, value, 10 * i + 9)


def finished(value, **more):
    return {"metrics": {"SW2/1step": value, "SW2/floor": 0.1}, **more}


def reported(sweep, directory):
    """What the task says of a sweep, and its page."""
    directory.mkdir(exist_ok=True)
    outcome = Report()(SimpleNamespace(ckpt_path=sweep, directory=directory))
    text = (directory / "report.html").read_text(encoding="utf-8")
    read = Reader(text)
    assert read.open == []
    assert read.outside == []
    assert "script" not in read.tags
    return outcome, text


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A sweep with a run in each state."""
    sweep = tmp_path_factory.mktemp("sweep")
    spoiled = {**finished(9.0), "verdict": {"fault": "it ended worse than it began"}, "commit": "89abcde"}
    picture = {"paths": {"picture": "/elsewhere/samples/1step.png"}}
    made(sweep, "0", "seed=1", result=finished(2.0, **picture), logged=CURVES, picture="1step")
    made(sweep, "1", "seed=2", result=finished(1.5), logged=CURVES, picture="2step")
    made(sweep, "2", "seed=3", result=spoiled, logged={"SW2/1step": [3.0, float("nan")]})
    made(sweep, "3", "seed=4", fault={"state": "failed", "reason": "data.root=x: no\nsuch folder"})
    made(sweep, "4", "seed=5", begun=True, logged={"SW2/1step": [2.5]})
    made(sweep, "5", "seed=6")
    made(sweep, "6", "seed=7", at_work=True, begun=True)
    pruned = {"state": "pruned", "reason": "worse than others"}
    made(sweep, "10", "seed=8", fault=pruned, logged={"guard/rollbacks": [0.0, 1.0]})
    old = made(sweep, "11", "seed=9", result=finished(None))
    kept = json.loads((old / "result.json").read_text())
    del kept["overrides"]  # as older versions wrote it
    (old / "result.json").write_text(json.dumps(kept))
    return sweep


class TestPage:
    def test_all_runs_stand_beside_each_other_with_their_states_and_reasons(self, mixed, tmp_path):
        outcome, text = reported(mixed, tmp_path)
        rows = {row[0]: row for row in outcome.tables[0].rows}
        assert [*rows] == ["0", "1", "2", "3", "4", "5", "6", "10", "11"]
        states = ["finished", "finished", "diverged", "failed", "stopped", "not begun", "running", "pruned"]
        assert [row[2] for row in rows.values()] == [*states, "finished"]
        assert [row[3] for row in rows.values()] == ["2", "1.5 (best)", "9", *[""] * 6]
        assert outcome.metrics == {}
        assert "<h1>ict_moons: 9 runs</h1>" in text
        assert "All with method=ict data=moons budget=points trainer.max_steps=20" in text
        for reason in ("Run 3, failed: data.root=x: no such folder", "Run 2, diverged: it ended worse"):
            assert reason in text

    def test_curves_of_all_runs_share_an_axis_and_a_legend(self, mixed, tmp_path):
        _, text = reported(mixed, tmp_path)
        assert text.count("image/svg+xml") == 2  # neither what never changes nor what is no outcome
        assert "<figcaption>SW2/1step</figcaption>" in text
        assert "<figcaption>train/loss</figcaption>" in text
        legend = text.partition('<ul class="legend">')[2].partition("</ul>")[0]
        for line in ("0: seed=1<", "1: seed=2<", "2: seed=3 (diverged)<", "4: seed=5 (stopped)<"):
            assert line in legend
        assert legend.count("<li>") == 4

    def test_samples_of_the_first_sampler_stand_side_by_side(self, mixed, tmp_path):
        _, text = reported(mixed, tmp_path)
        assert text.count("image/png") == 2
        for caption in ("0: seed=1", "1: seed=2"):
            assert f"<figcaption>{caption}</figcaption>" in text
        assert "Without samples: runs 2, 3, 4, 5, 6, 10, 11." in text

    def test_what_the_runs_were_made_with_and_whether_it_differs(self, mixed, tmp_path):
        _, text = reported(mixed, tmp_path)
        assert "The runs differ in commit." in text
        assert "0123456 (runs 0, 1, 11); 89abcde (run 2)" in text
        assert "<td>device</td><td>cpu x 1</td>" in text

    def test_a_single_run_and_one_without_anything_have_a_page(self, tmp_path):
        made(tmp_path / "x", "0")
        _, text = reported(tmp_path / "x", tmp_path / "page")
        assert "ict_moons: 1 run<" in text
        assert "<h2>Curves</h2>" not in text
        assert "<h2>Samples</h2>" not in text

    def test_what_is_better_is_said_only_where_it_is_known(self):
        for name in ("SW2/1step", "FD(digits)/2step", "FID/1step", "gap/self", "oracle_rmse"):
            assert better_value(name) is min
        for name in ("IS/1step", "precision(digits)/1step"):
            assert better_value(name) is max
        for name in ("SW2/floor", "IS ±", "teacher/FD/heun", "custom/1step"):
            assert better_value(name) is None


class TestFiles:
    """What a sweep holds is untrusted."""

    EVIL = "<script>alert(1)</script>"

    def test_text_of_files_stays_text(self, tmp_path):
        sweep = tmp_path / "s"
        reason = f"\x1b[31m{self.EVIL}\x07"
        metrics = {
            "metrics": {f"SW2/{self.EVIL}": 1.0, "SW2/\ud800": 2.0},
            "commit": [self.EVIL],
            "versions": 3,
        }
        made(sweep, "a<b>&\udce9", f"experiment='{self.EVIL}'", fault={"state": "failed", "reason": reason})
        made(sweep, "1", "seed=2", result=metrics, logged={f"SW2/{self.EVIL}": [1.0, 2.0]})
        _, text = reported(sweep, tmp_path / "page")
        assert "&lt;script&gt;" in text
        assert "\x1b" not in text
        assert "\x07" not in text

    @pytest.mark.parametrize(
        ("file", "content"),
        [
            ("overrides.json", "{"),
            ("overrides.json", '["a={"]'),
            ("result.json", "[]"),
            ("result.json", '{"metrics": {"a": "b"}}'),
            ("result.json", f'{{"metrics": {{"a": 1{"0" * 400}}}}}'),
            ("failed.json", '{"state": "eaten", "reason": ""}'),
        ],
    )
    def test_a_damaged_file_is_named_in_one_line(self, tmp_path, file, content):
        made(tmp_path / "s", "0", "seed=1")
        (tmp_path / "s" / "0" / file).write_text(content)
        with pytest.raises(UserError, match=rf"0/{file} is damaged") as refused:
            reported(tmp_path / "s", tmp_path / "page")
        assert "\n" not in str(refused.value)

    def test_a_damaged_log_or_picture_is_named_and_the_rest_is_shown(self, tmp_path):
        sweep = tmp_path / "s"
        made(sweep, "0", "seed=1", result=finished(1.0), logged=CURVES, picture="1step")
        bad = made(sweep, "1", "seed=2", result=finished(2.0), logged=CURVES, picture="1step")
        (path,) = (bad / "tensorboard").iterdir()
        path.write_bytes(record(b"\xff" * 20))
        (bad / "samples" / "1step.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
        pipe = made(sweep, "2", "seed=3", begun=True)
        (pipe / "tensorboard").mkdir()
        os.mkfifo(pipe / "tensorboard" / "events.out.tfevents.1")
        _, text = reported(sweep, tmp_path / "page")
        assert "No curves of run 1:" in text
        assert "No curves of run 2:" in text
        assert "Run 1: 1step.png is not an image that can be read" in text
        assert text.count("image/png") == 1
        assert text.count("image/svg+xml") == 2

    def test_a_picture_is_looked_for_in_the_run_alone(self, tmp_path):
        Image.new("L", (8, 8)).save(tmp_path / "secret.png")
        path = {"paths": {"picture": "../../secret.png"}}
        made(tmp_path / "s", "0", "seed=1", result=finished(1.0, **path))
        made(tmp_path / "s", "1", "seed=2", result=finished(1.0, paths={"picture": 3}))
        made(tmp_path / "s", "2", "seed=3", result=finished(1.0, paths=3))
        _, text = reported(tmp_path / "s", tmp_path / "page")
        assert "image/png" not in text

    def test_charts_lines_pictures_and_points_are_bounded(self, tmp_path, monkeypatch):
        monkeypatch.setattr(sweep_curves, "MOST", 3)
        monkeypatch.setattr(sweep_report, "MOST", 3)
        many = {f"a{i}/x": [1.0, 2.0] for i in range(5)}
        for i in range(12):
            made(tmp_path / "s", str(i), f"seed={i}", logged=many, picture="1step")
        _, text = reported(tmp_path / "s", tmp_path / "page")
        assert text.count("image/svg+xml") == 3
        assert text.count("image/png") == 3
        assert text.count("<li>") == 3
        for line in ("3 of 5 charts", "first 3 of 12 runs", "3 of 12 runs are shown"):
            assert line in text
        steps, values = curves.thin_curve(([*range(10_001)], [0.0] * 10_001))
        assert steps[-1] == 10_000
        assert len(steps) == len(values) <= curves.POINTS
        assert curves.thin_curve(([1, 2], [3.0, 4.0])) == ([1, 2], [3.0, 4.0])

    def test_a_label_is_not_endless(self, tmp_path):
        made(tmp_path, "0", f"x={'y' * 10_000}")
        made(tmp_path, "1")
        assert max(map(len, run_labels(runs_of(tmp_path)))) < 300

    def test_an_integer_that_no_float_holds_is_no_number(self):
        assert is_number(2**1023)
        assert not is_number(10**400)


def record(content):
    """A record of an event file with checksums that fit."""
    from io import BytesIO

    from tensorboard.summary.writer.record_writer import RecordWriter

    out = BytesIO()
    RecordWriter(out).write(content)
    return out.getvalue()


class TestNames:
    """Where one run is asked for, a sweep is refused by name, and the directory of a run will do."""

    def test_a_sweep_is_no_checkpoint(self, mixed, tmp_path):
        words = (
            rf"{mixed} is the directory of a sweep of 9 runs: name one of them, such as \w+.*={mixed}/0; task"
        )
        with pytest.raises(UserError, match=f"ckpt_path={words}"):
            _ = session(tmp_path, mixed).trained
        with pytest.raises(UserError, match=f"ckpt_path={words}"):
            find_checkpoint(str(mixed), tmp_path)
        with pytest.raises(UserError, match=rf"teacher\.path={words}"):
            teacher_directory(str(mixed))
        with pytest.raises(UserError, match=rf"task\.results={words}"):
            read_numbers(mixed)

    def test_nobody_else_works_in_the_directory_of_a_sweep(self, mixed, tmp_path):
        commands = [
            ("train.py", []),
            ("train.py", ["ckpt_path=last"]),
            ("eval.py", ["task=report", f"ckpt_path={mixed}"]),
        ]
        for script, options in commands:
            refused = run(script, mixed, *options)
            assert refused.status == 1
            assert "is the directory of a sweep, which goes on by its own command" in refused.err
        assert not (mixed / "report.html").exists()
        assert is_sweep(mixed)

    def test_the_directory_of_a_run_stands_for_its_newest_checkpoint(self, tmp_path):
        path = checkpoint(tmp_path / "run")
        assert session(tmp_path / "page", path.parent.parent).trained.provenance.path == path
        assert find_checkpoint(str(tmp_path / "run"), tmp_path / "other")[0] == path
        assert find_checkpoint(str(tmp_path / "run"), tmp_path / "run")[0] == path
        with pytest.raises(UserError, match="holds a run already"):
            find_checkpoint(str(tmp_path / "other"), tmp_path / "run")
        (tmp_path / "empty").mkdir()
        with pytest.raises(UserError, match="is a directory without checkpoints; give a"):
            find_checkpoint(str(tmp_path / "empty"), tmp_path / "other")


class Row:
    """What TensorBoard sees of a run in its log."""

    def __init__(self, directory):
        events = EventAccumulator(str(directory), size_guidance={"scalars": 0})
        events.Reload()
        self.tags = events.Tags()["scalars"]
        self.steps = {tag: [event.step for event in events.Scalars(tag)] for tag in self.tags}
        kept = events.PluginTagToContent(metadata.PLUGIN_NAME)
        self.start = metadata.parse_session_start_info_plugin_data(kept[metadata.SESSION_START_INFO_TAG])
        self.columns = metadata.EXPERIMENT_TAG in kept  # of which TensorBoard takes one for all runs
        end = kept.get(metadata.SESSION_END_INFO_TAG)
        self.status = None if end is None else metadata.parse_session_end_info_plugin_data(end).status

    def __getitem__(self, key):
        value = self.start.hparams[key]
        return getattr(value, value.WhichOneof("kind"))


SUCCESS, FAILURE = 1, 2


class TestRow:
    def trainer(self, directory):
        board = Board(directory, name="", version="tensorboard")
        return SimpleNamespace(loggers=[board], is_global_zero=True)

    def test_a_run_that_goes_on_replaces_its_row(self, tmp_path):
        for steps in (10, 2000):
            HParams({"seed": 1, "trainer.max_steps": steps, "solver": "heun"}).on_train_start(
                self.trainer(tmp_path), None
            )
        row = Row(tmp_path / "tensorboard")
        assert (row["trainer.max_steps"], row["seed"], row["solver"]) == (2000, 1, "heun")
        assert row.status is None
        assert not row.columns

    def test_the_row_is_read_before_any_curve(self):
        assert FIRST < "events.out.tfevents.1"

    @pytest.mark.parametrize(
        ("error", "status"), [(ValueError(), FAILURE), (Stopped(2), None), (KeyboardInterrupt(), None)]
    )
    def test_a_run_that_fails_says_so_and_one_that_is_stopped_does_not(self, tmp_path, error, status):
        trainer, row = self.trainer(tmp_path), HParams({"seed": 1})
        row.on_train_start(trainer, None)
        row.on_exception(trainer, None, error)
        assert Row(tmp_path / "tensorboard").status == status
        row.on_train_start(trainer, None)  # it goes back, or on
        assert Row(tmp_path / "tensorboard").status is None
        end_rows(trainer, failed=False)
        assert Row(tmp_path / "tensorboard").status == SUCCESS

    def test_a_run_that_ends_well(self, tmp_path):
        trainer = self.trainer(tmp_path)
        HParams({"seed": 1}).on_train_start(trainer, None)
        end_rows(trainer, failed=False)
        assert Row(tmp_path / "tensorboard").status == SUCCESS


TINY = [
    "method=ict",
    "data=moons",
    "budget=points",
    *("trainer=cpu", "threads=1", "net.width=16", "data.samples=64", "data.batch_size=32"),
    *("trainer.val_check_interval=5", "trainer.log_every_n_steps=5", "curriculum.s0=4"),
]


def test_the_row_of_a_run_has_what_the_command_line_says_and_the_end_of_it(tmp_path):
    words = ["distance=l1", "optimizer.betas=[0.8,0.9]", "+samplers.x=null"]
    train_here(tmp_path, *TINY, *words, "trainer.max_steps=10")
    row = Row(tmp_path / "tensorboard")
    assert (row["experiment"], row["distance"], row["optimizer.betas"]) == ("ict_moons", "l1", "[0.8,0.9]")
    assert (row["seed"], row["trainer.max_steps"], row.status) == (0, 10, SUCCESS)
    assert row.steps["SW2/1step"] == [4, 9]  # no point is repeated
    assert not row.columns
    train_here(tmp_path, *TINY, *words, "trainer.max_steps=15", "ckpt_path=last")
    row = Row(tmp_path / "tensorboard")
    assert (row["trainer.max_steps"], row.status, row.steps["SW2/1step"]) == (15, SUCCESS, [4, 9, 14])


def test_a_run_that_diverges_keeps_its_row(tmp_path):
    with pytest.raises(UserError, match="not finite"):
        train_here(tmp_path, *TINY, "optimizer.lr=1e30", "trainer.max_steps=10")
    row = Row(tmp_path / "tensorboard")
    assert (row["optimizer.lr"], row.status) == (1e30, FAILURE)


def in_tensorboard(directory):
    """The columns and the rows of the HParams tab, as a TensorBoard of this directory serves them."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    words = ["--logdir", str(directory), "--port", str(port), "--load_fast=false"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    board = subprocess.Popen([sys.executable, "-m", "tensorboard.main", *words], **quiet)
    statuses = [f"STATUS_{name}" for name in ("UNKNOWN", "SUCCESS", "FAILURE", "RUNNING")]
    body = {"allowedStatuses": statuses, "colParams": [], "startIndex": 0, "sliceSize": 100}

    def asked(what, body):
        place = f"http://localhost:{port}/data/plugin/hparams/{what}"
        request = urllib.request.Request(
            place, json.dumps(body).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            return json.load(answer)

    def both():
        with suppress(OSError):
            found = asked("session_groups", body).get("sessionGroups", [])
            return found if len(found) == 2 else None

    try:
        groups = until(both, "TensorBoard to list both runs", board)
        return asked("experiment", {})["hparamInfos"], groups
    finally:
        board.kill()
        board.wait()


@pytest.mark.slow
def test_two_runs_on_one_page(tmp_path):
    words = [*SMALL, "experiment=ict_digits", "trainer.max_steps=20"]
    words += ["trainer.val_check_interval=10", "trainer.log_every_n_steps=5"]
    swept = run("train.py", tmp_path / "s", "-m", *words, "seed=1,2", "threads=1")
    assert swept.status == 0, swept.err
    page = run("eval.py", tmp_path / "page", "task=report", f"ckpt_path={tmp_path}/s")
    assert page.status == 0, page.err
    assert "page " in page.out
    text = (tmp_path / "page" / "report.html").read_text()
    for shown in ("ict_digits: 2 runs", "0: seed=1", "1: seed=2", "FD(digits)/1step", "train/loss"):
        assert shown in text
    assert text.count("image/png") == 2
    assert [Row(tmp_path / "s" / name / "tensorboard")["seed"] for name in "01"] == [1, 2]
    infos, groups = in_tensorboard(tmp_path / "s")
    assert [info["name"] for info in infos if info["differs"]] == ["seed"]
    assert [(group["name"], group["hparams"]["seed"]) for group in groups] == [
        ("0/tensorboard", 1),
        ("1/tensorboard", 2),
    ]
    for group in groups:
        assert [each["status"] for each in group["sessions"]] == ["STATUS_SUCCESS"]
        assert "FD(digits)/1step" in {value["name"]["tag"] for value in group["metricValues"]}
    other = run("eval.py", tmp_path / "other", "task=sample", f"ckpt_path={tmp_path}/s")
    assert other.status == 1
    assert other.err.count("\n") == 1
    assert f"such as ckpt_path={tmp_path}/s/0" in other.err


def test_debug_runs_are_marked_and_none_is_the_best(tmp_path):
    for name, value in (("0", 2.0), ("1", 1.0)):
        made(tmp_path / "sweep", name, f"seed={name}", result=finished(value, debug="smoke"))
    outcome, text = reported(tmp_path / "sweep", tmp_path / "page")
    assert [row[2] for row in outcome.tables[0].rows] == ["finished (debug=smoke)"] * 2
    assert "(best)" not in text
