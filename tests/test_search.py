"""A search: what it proposes, what it makes of how runs end, and that it goes on after a kill."""

import json
import math
import multiprocessing
import os
import re
import shutil
import signal
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from sqlalchemy.pool import NullPool

from consistency.errors import UserError
from consistency.lit.callbacks import reports
from consistency.sweep.child import Ended, ValidationReport
from consistency.sweep.identity import override_settings
from consistency.sweep.options import Options
from consistency.sweep.runs import RunState, forget_fault, keep_fault, run_in, runs_of
from consistency.sweep.search import SweepSearch, check_completed, verdict
from consistency.sweep.space import corners, flatten_params, split_space, trial_overrides
from consistency.sweep.study import Trials
from consistency.sweep.table import Table
from consistency.sweep.trials import TrialsTable
from consistency.sweep.work import Sweep
from hydra_plugins import consistency_sweeps
from tests.conftest import run, start
from tests.forked import PRELOADED
from tests.waits import ended, until

SMALL = ["method=ict", "data=moons", "budget=points", "trainer=cpu", "threads=1", "trainer.max_steps=20"]
RATE = "optimizer.lr=tag(log, interval(1e-4, 1e3))"
TPE = {"_target_": "optuna.samplers.TPESampler", "seed": 0, "n_startup_trials": 3}
MEDIAN = {"_target_": "optuna.pruners.MedianPruner", "n_startup_trials": 2}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No test outlives a power failure."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def parsed(*lines):
    return OverridesParser.create().parse_overrides(list(lines))


def space_of(*lines):
    return split_space([], parsed(*lines))[1]


class Killed(BaseException):
    """Stands for SIGKILL."""


@dataclass
class End:
    """How a run ends: one of value, fault and failure; before it, it reports values by step."""

    value: float | None = None
    fault: str | None = None
    failure: str | None = None
    reports: tuple = ()


def valley(overrides):
    """A run whose metric is best at a rate of 1, that diverges above 100, and fails between 20 and 30."""
    rate = float(dict(each.split("=") for each in overrides)["optimizer.lr"])
    if rate > 100:
        return End(fault="the loss is not finite")
    if 20 < rate < 30:
        return End(failure="out of memory")
    value = 1 + math.log10(rate) ** 2
    return End(value, reports=((10, value + 1), (20, value + 0.5)))


class Runs:
    """Stands in for the pool: runs that end, by `end`, when they are waited for, the last one first.

    Args:
        end: overrides of a run -> how it ends.
        size: runs at a time.
        lives: starts after which everything is killed.
    """

    go_on = ("ckpt_path=last",)

    def __init__(self, end=valley, size=1, lives=None):
        self.end, self.size, self.lives = end, size, lives
        self.children, self.started, self.let = {}, [], []

    @property
    def is_full(self):
        return len(self.children) >= self.size

    def start(self, run):
        forget_fault(run.directory)
        if self.lives is not None and len(self.started) == self.lives:
            raise Killed
        assert run.directory not in self.children
        self.started.append(run.name)
        self.children[run.directory] = [run, list(self.end(run.overrides).reports)]

    def wait(self):
        run, reports = next(reversed(self.children.values()))
        if reports and run not in self.let:
            step, value = reports.pop(0)
            return ValidationReport(run, step, value)
        del self.children[run.directory]
        if run not in self.let:
            leave(run.directory, self.end(run.overrides))
        return Ended(run_in(run.directory))

    def stop_run(self, run):
        self.let.append(run)


def leave(directory, end):
    """What a run leaves."""
    if end.failure:
        return keep_fault(directory, RunState.FAILED, end.failure)
    result = {"metrics": {"SW2/1step": end.value}, "seconds": 1.0, "verdict": {"fault": end.fault}}
    return (directory / "result.json").write_text(json.dumps(result))


def options(**changes):
    given = {"n_trials": 8, "direction": "minimize", "sampler": TPE, "pruner": None, "storage": None}
    return Options(**{**given, "study_name": "rates", "params": {}, **changes})


def searched(directory, runs, lines=(RATE,), table=True, pruner=None, **changes):
    """A search with these runs, and its trials."""
    wanted = options(**changes)
    wanted.check()
    fixed, space = split_space([], parsed(*lines))
    directory.mkdir(exist_ok=True)
    about = {"metric": "1step", "direction": wanted.direction, **override_settings(fixed)}
    storage = wanted.storage or str(directory / "study.log")
    trials = Trials.of(storage, wanted.study_name, about, space, wanted.proposer, pruner, directory)
    found = [run_in(path.parent) for path in directory.glob("*/overrides.json")]
    known = {run.directory: override_settings(run.overrides) for run in found}
    sweep = Sweep(directory, runs, lambda _, number: str(number), "1step", None, known)
    if table:
        sweep.table = TrialsTable(trials, "1step", Table())
    SweepSearch(sweep, trials, fixed, wanted.n_trials).run()
    return trials


def history(trials):
    """All that a search has found out, but for the time."""
    return [(t.params, t.state, t.value, t.user_attrs, t.intermediate_values) for t in trials.all()]


class TestSpace:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("a=tag(log, interval(1e-4, 1e-2))", FloatDistribution(1e-4, 1e-2, log=True)),
            ("a=interval(-1, 2)", FloatDistribution(-1.0, 2.0)),
            ("a=int(interval(1, 8))", IntDistribution(1, 8)),
            ("a=int(tag(log, interval(1, 8)))", IntDistribution(1, 8, log=True)),
            ("a=range(1, 5)", IntDistribution(1, 4)),
            ("a=range(0, 10, 4)", IntDistribution(0, 8, step=4)),
            ("a=range(5, 1, -1)", IntDistribution(2, 5)),
            ("a=range(0, 1, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
            ("a=1,2.5,true,'x y',1", CategoricalDistribution(("1", "2.5", "True", "'x y'"))),
            ("a=choice([1,2],[3])", CategoricalDistribution(("[1,2]", "[3]"))),
        ],
    )
    def test_of_hydras_overrides(self, line, expected):
        assert space_of(line) == {"a": expected}

    def test_a_range_has_the_values_of_a_grid(self):
        for line in ("a=range(0, 10, 4)", "a=range(5, 1, -1)", "a=range(0, 1, 0.25)", "a=range(1, 2, 0.3)"):
            one = space_of(line)["a"]
            count = round((one.high - one.low) / one.step) + 1
            values = sorted(float(value) for value in parsed(line)[0].sweep_string_iterator())
            assert values == pytest.approx([one.low + i * one.step for i in range(count)])

    @pytest.mark.parametrize(
        "line",
        [
            "a=tag(log, interval(0, 1))",
            "a=interval(2, 1)",
            "a=interval(0, inf)",
            "a=range(5, 1)",
            "a=range(0, 4, 0)",
            "a=range(0, nan)",
            "a=tag(log, range(1, 9, 2))",
        ],
    )
    def test_one_that_cannot_be_is_refused_by_its_key(self, line):
        with pytest.raises(
            UserError, match=re.escape(line) + r" is no search space \(.*\): write interval"
        ) as e:
            space_of(line)
        assert "\n" not in str(e.value)

    def test_the_command_line_replaces_the_config(self):
        params = parsed(*(f"{key}={value}" for key, value in flatten_params({"a": {"b": "1,2"}, "c": "3,4"})))
        assert split_space(params, parsed("x=1")) == (["x=1"], space_of("a.b=1,2", "c=3,4"))
        assert split_space(params, parsed("a.b=5")) == (["a.b=5"], space_of("c=3,4"))
        assert split_space(params, parsed("c=interval(0, 1)"))[1] == space_of("a.b=1,2", "c=interval(0, 1)")

    def test_a_parameter_without_a_space_and_none_at_all_are_refused(self):
        with pytest.raises(
            UserError, match=r"hydra\.sweeper\.params: a=1 is no search space: write interval"
        ):
            split_space(parsed("a=1", "b=1,2"), [])
        with pytest.raises(UserError, match="nothing to search: give a key a search space"):
            split_space(parsed("a=1,2"), parsed("a=1"))

    def test_overrides_have_all_digits_and_text_stays_text(self):
        params = {"a": 0.1 + 0.2, "b": 1e-07, "c": 3, "d": "'x y'", "e": "null"}
        read = {o.key_or_group: o.value() for o in parsed(*trial_overrides(params))}
        assert read == {"a": 0.1 + 0.2, "b": 1e-07, "c": 3, "d": "x y", "e": None}

    def test_corners_have_every_choice(self):
        found = list(corners(space_of("a=1,2,3", "b=interval(0, 1)")))
        assert {each["a"] for each in found} == {"1", "2", "3"}
        assert {each["b"] for each in found} == {0.0, 1.0}


class TestSearch:
    def test_divergence_is_a_result(self, tmp_path):
        trials = searched(tmp_path, runs := Runs(), n_trials=12)
        made = trials.all()
        assert len(made) == len(runs.started) == 12
        kinds = {trial.user_attrs["state"] for trial in made}
        assert {"finished", "diverged"} <= kinds
        for trial in made:
            end = valley(trial_overrides(trial.params))
            expected = (
                TrialState.PRUNED if end.fault else TrialState.FAIL if end.failure else TrialState.COMPLETE
            )
            assert trial.state is expected
            assert trial.value == end.value
            assert trial.user_attrs.get("reason") == (end.fault or end.failure)
        check_completed(trials, tmp_path)

    def test_a_sampler_learns_from_divergence(self, tmp_path):
        made = searched(tmp_path, Runs(), n_trials=25, table=False).all()
        wild = [trial.params["optimizer.lr"] > 100 for trial in made]
        assert any(wild[:3])
        assert sum(wild[10:]) <= 2  # of 15; at random it would be 2 of 14 each time

    @pytest.mark.parametrize(
        ("end", "state", "reason"),
        [
            (End(value=None), TrialState.PRUNED, "1step is not finite"),
            (End(value=math.inf), TrialState.PRUNED, "1step is not finite"),
            (End(value=1.0, fault="wild"), TrialState.PRUNED, "wild"),
            (End(failure="no memory"), TrialState.FAIL, "no memory"),
        ],
    )
    def test_what_an_end_means(self, tmp_path, end, state, reason):
        (tmp_path / "overrides.json").write_text("[]")
        leave(tmp_path, end)
        assert verdict(run_in(tmp_path), "1step") == (state, None, reason)

    def test_a_trial_that_lags_behind_ends_early_and_is_never_begun_again(self, tmp_path):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
        runs = Runs()
        trials = searched(tmp_path, runs, pruner=pruner, n_trials=10)
        pruned = [trial for trial in trials.all() if trial.user_attrs["state"] == "pruned"]
        assert pruned
        assert {run.name for run in runs.let} == {trial.user_attrs["run"] for trial in pruned}
        for trial in pruned:
            assert trial.state is TrialState.PRUNED
            step = max(trial.intermediate_values)
            assert trial.user_attrs["reason"] == f"it lagged behind the other trials at step {step}"
            assert run_in(tmp_path / trial.user_attrs["run"]).state is RunState.PRUNED
        again = Runs()
        assert history(searched(tmp_path, again, pruner=pruner, n_trials=10)) == history(trials)
        assert again.started == []

    def test_at_its_last_step_a_run_is_not_pruned(self, tmp_path):
        run = SimpleNamespace(directory=tmp_path)
        kept = []
        trials = SimpleNamespace(
            report=lambda *report: kept.append(report), should_prune=lambda number: len(kept) > 1
        )
        pool = Runs()
        search = SweepSearch(SimpleNamespace(pool=pool), trials, [], 1, at_work={tmp_path: [0]})
        for report in (
            ValidationReport(run, 10, None),
            ValidationReport(run, 10, 2.0),
            ValidationReport(run, 20, 9.0, last=True),
        ):
            search.heard(report)
        assert kept == [(0, 10, 2.0)]
        assert pool.let == []

    def test_the_same_parameters_are_one_run(self, tmp_path):
        runs = Runs(lambda overrides: End(value=float(overrides[0][-1])), size=2)
        trials = searched(tmp_path, runs, ["seed=1,2"], n_trials=7)
        assert sorted(runs.started) == ["0", "1"]
        assert len(trials.all()) == 7
        for trial in trials.all():
            assert trial.value == float(trial.params["seed"])

    def test_maximize(self, tmp_path, capsys):
        trials = searched(tmp_path, Runs(), direction="maximize", n_trials=5)
        TrialsTable(trials, "1step", Table()).show(tmp_path)
        best = max(trial.value for trial in trials.all() if trial.value is not None)
        assert f"1step {best:.4g}, with" in capsys.readouterr().out

    def test_a_search_without_a_completed_trial_is_an_error_of_one_line(self, tmp_path):
        trials = searched(tmp_path, Runs(lambda _: End(fault="wild")), n_trials=3)
        with pytest.raises(UserError, match=r"none of 3 trials has completed \(the first: wild\)") as raised:
            check_completed(trials, tmp_path)
        assert "\n" not in str(raised.value)


class TestGoingOn:
    def test_more_trials_go_on_with_the_study(self, tmp_path):
        whole = searched(tmp_path / "whole", Runs(), n_trials=8)
        first = searched(tmp_path / "parts", Runs(), n_trials=5)
        assert history(first) == history(whole)[:5]
        later = Runs()
        assert history(searched(tmp_path / "parts", later, n_trials=8)) == history(whole)
        assert later.started == ["5", "6", "7"]

    def test_killed_at_any_write_it_goes_on_as_if_it_had_not_been(self, tmp_path, monkeypatch):
        pruner = optuna.pruners.MedianPruner(n_startup_trials=2)
        append = JournalFileBackend.append_logs
        writes = []

        def counting(self, logs):
            writes.append(logs)
            append(self, logs)

        def undisturbed(name):
            monkeypatch.setattr(JournalFileBackend, "append_logs", counting)
            writes.clear()
            return history(searched(tmp_path / name, Runs(), pruner=pruner, n_trials=6, table=False))

        expected = undisturbed("whole")
        assert {"pruned", "finished", "diverged"} <= {attrs["state"] for *_, attrs, _ in expected}
        for moment in range(len(writes)):
            left = [moment]

            def killing(self, logs, left=left):
                if left[0] == 0 and moment % 2:  # noqa: B023 - before or after what is written
                    raise Killed
                append(self, logs)
                if left[0] == 0:
                    raise Killed
                left[0] -= 1

            monkeypatch.setattr(JournalFileBackend, "append_logs", killing)
            with pytest.raises(Killed):
                searched(tmp_path / str(moment), Runs(), pruner=pruner, n_trials=6, table=False)
            assert undisturbed(str(moment)) == expected

    def test_killed_while_several_are_at_work_all_are_gone_on_with(self, tmp_path):
        with pytest.raises(Killed):
            searched(tmp_path, runs := Runs(size=3, lives=4), n_trials=8)
        begun = set(runs.children)
        states = [run.state for run in runs_of(tmp_path)]
        assert len(begun) == 2
        again = Runs(size=3)
        trials = searched(tmp_path, again, n_trials=8)
        assert all(trial.state.is_finished() for trial in trials.all())
        assert len(trials.all()) == 8
        assert len(again.started) == 8 - sum(state is not RunState.WAITING for state in states)
        assert len({trial.user_attrs["run"] for trial in trials.all()}) == 8

    def test_a_run_that_ended_while_nobody_watched_is_not_repeated(self, tmp_path):
        with pytest.raises(Killed):
            searched(tmp_path, Runs(lives=2), n_trials=4)
        (run,) = [run for run in runs_of(tmp_path) if run.state is RunState.WAITING]
        leave(run.directory, valley(run.overrides))
        again = Runs()
        trials = searched(tmp_path, again, n_trials=4)
        assert run.name not in again.started
        whole = history(searched(tmp_path.with_name("whole"), Runs(), n_trials=4))
        assert [each[:4] for each in history(trials)] == [each[:4] for each in whole]

    def test_a_lost_storage_is_made_again_from_the_runs(self, tmp_path):
        first = history(searched(tmp_path, Runs(), n_trials=6))
        (tmp_path / "study.log").unlink()
        again = Runs()
        failed = [attrs["run"] for *_, attrs, _ in first if attrs["state"] == "failed"]
        second = history(searched(tmp_path, again, n_trials=6))
        assert again.started == failed
        assert [each[:4] for each in second] == [each[:4] for each in first]

    def test_a_search_that_was_moved_goes_on(self, tmp_path):
        with pytest.raises(Killed):
            searched(tmp_path / "there", Runs(lives=3), n_trials=5)
        shutil.move(tmp_path / "there", tmp_path / "here")
        trials = searched(tmp_path / "here", Runs(), n_trials=5)
        assert history(trials) == history(searched(tmp_path / "whole", Runs(), n_trials=5))

    def test_a_sampler_that_keeps_a_state_elsewhere_is_refused(self, tmp_path):
        qmc = {"_target_": "optuna.samplers.QMCSampler", "seed": 0}
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        with pytest.raises(UserError, match=r"hydra\.sweeper\.sampler: QMCSampler keeps a state"):
            searched(tmp_path, Runs(), sampler=qmc)

    def test_seeds_are_searches_of_their_own(self, tmp_path):
        def first(seed):
            made = searched(tmp_path / str(seed), Runs(), sampler={**TPE, "seed": seed}, n_trials=3)
            return [trial.params["optimizer.lr"] for trial in made.all()]

        assert first(0)[1:] != first(1)[:2]
        assert not set(first(0)) & set(first(1))


def share(directory, storage):
    """One of two searches, in a process of its own."""
    searched(Path(directory), Runs(), storage=storage, n_trials=12, table=False)


class TestStorage:
    def test_sqlite(self, tmp_path):
        url = f"sqlite:///{tmp_path}/deep/study.db"
        with pytest.raises(Killed):
            searched(tmp_path / "there", Runs(lives=3), storage=url, n_trials=5)
        trials = searched(tmp_path / "there", Runs(), storage=url, n_trials=5)
        assert [each[:3] for each in history(trials)] == [
            each[:3] for each in history(searched(tmp_path / "whole", Runs(), n_trials=5))
        ]

    def test_two_searches_share_a_study(self, tmp_path):
        storage = str(tmp_path / "both.log")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        two = [context.Process(target=share, args=(str(tmp_path / name), storage)) for name in "ab"]
        for process in two:
            process.start()
        for process in two:
            process.join(100)
        assert [process.exitcode for process in two] == [0, 0]
        made = searched(tmp_path / "c", none := Runs(), storage=storage, n_trials=12).all()
        assert none.started == []
        assert len(made) == 12
        assert len({trial.params["optimizer.lr"] for trial in made}) == 12
        for name in "ab":
            mine = {t.user_attrs["run"] for t in made if t.user_attrs["directory"] == name}
            theirs = [run.name for run in runs_of(tmp_path / name)] if mine else []
            assert mine == set(theirs)

    def test_only_trials_of_the_own_directory_are_taken_up(self, tmp_path):
        storage = str(tmp_path / "both.log")
        with pytest.raises(Killed):
            searched(tmp_path / "a", Runs(lives=1), storage=storage, n_trials=4)
        trials = searched(tmp_path / "b", Runs(), storage=storage, n_trials=4)
        states = [trial.state for trial in trials.all()]
        assert states.count(TrialState.RUNNING) == 1
        check_completed(trials, tmp_path / "b")
        head, _, *rows = TrialsTable(trials, "1step", Table()).text().splitlines()[:6]
        assert head.split("|")[2].strip() == "run"
        assert sorted(row.split("|")[2].strip() for row in rows) == ["0", "1", "a/0", "a/1"]
        trials = searched(tmp_path / "a", again := Runs(), storage=storage, n_trials=4)
        assert len(again.started) == 1
        assert all(trial.state.is_finished() for trial in trials.all())

    @pytest.mark.parametrize(
        ("changes", "what"),
        [
            ({"direction": "maximize"}, "direction"),
            ({"lines": ["optimizer.lr=tag(log, interval(1e-3, 1e3))"]}, "space of optimizer.lr"),
            ({"lines": [RATE, "seed=1,2"]}, "space of seed"),
            ({"lines": [RATE, "experiment=cd_ring"]}, "experiment"),
        ],
    )
    def test_another_search_is_refused(self, tmp_path, changes, what):
        searched(tmp_path, Runs(), n_trials=2)
        before = (tmp_path / "study.log").read_bytes()
        with pytest.raises(UserError, match=rf"study\.log holds another search .*differ in {what}\)"):
            searched(tmp_path, Runs(), **changes)
        assert (tmp_path / "study.log").read_bytes() == before
        searched(tmp_path, Runs(), **changes, study_name="other", n_trials=2)

    def test_a_study_of_another_program_is_refused(self, tmp_path):
        url = f"sqlite:///{tmp_path}/study.db"
        storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
        optuna.create_study(storage=storage, study_name="rates").optimize(lambda trial: 1.0, n_trials=1)
        with pytest.raises(UserError, match="made by another program"):
            searched(tmp_path, Runs(), storage=url)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[:-7],
            lambda content: content.replace(b'"op_code":4', b'"op_code":4000'),
            lambda content: b"\x80\x04" + content,
            lambda content: b"[]\n" + content,
            lambda content: b"not a study\n",
            lambda content: content.replace(b'"params"', b'"parms"'),
        ],
    )
    def test_a_damaged_journal_is_named_and_left(self, tmp_path, damage):
        searched(tmp_path, Runs(), n_trials=2)
        file = tmp_path / "study.log"
        file.write_bytes(damage(file.read_bytes()))
        before = file.read_bytes()
        with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=.*study\.log is damaged") as raised:
            searched(tmp_path, Runs(), n_trials=3)
        assert "\n" not in str(raised.value)
        assert file.read_bytes() == before

    def test_a_damaged_database_is_named_and_left(self, tmp_path):
        file = tmp_path / "study.db"
        file.write_bytes(b"no database, but long enough to be taken for one" * 40)
        with pytest.raises(UserError, match=r"study\.db is damaged"):
            searched(tmp_path, Runs(), storage=f"sqlite:///{file}")
        file.unlink()
        with sqlite3.connect(file) as other:
            other.execute("create table studies (name text)")
        other.close()
        with pytest.raises(UserError, match=r"study\.db is damaged"):
            searched(tmp_path, Runs(), storage=f"sqlite:///{file}")

    @pytest.mark.parametrize("place", ["mysql://x/y", "sqlite:///", "sqlite:///:memory:", "redis://x"])
    def test_what_is_no_file_is_refused(self, tmp_path, place):
        with pytest.raises(UserError, match=rf"hydra\.sweeper\.storage={place} must be the path of a file"):
            searched(tmp_path, Runs(), storage=place)

    def test_a_folder_is_no_storage(self, tmp_path):
        with pytest.raises(UserError, match=r"hydra\.sweeper\.storage=.*: Is a directory"):
            searched(tmp_path, Runs(), storage=str(tmp_path))

    @pytest.mark.parametrize("name", ["study.log", ".study.log.alone"])
    def test_nothing_is_written_through_a_link(self, tmp_path, name):
        (tmp_path / "s").mkdir()
        (tmp_path / "other").write_text("")
        (tmp_path / "s" / name).symlink_to(tmp_path / "other")
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "s" / name))):
            searched(tmp_path / "s", Runs(), n_trials=1)
        assert (tmp_path / "other").read_text() == ""

    def test_parameters_of_a_file_are_none_of_another_kind(self, tmp_path):
        with pytest.raises(Killed):
            searched(tmp_path, Runs(lives=0), ["data.root=a,b"], n_trials=2)
        file = tmp_path / "study.log"
        choices = r"[\"a\", \"b\"]"
        text = file.read_text()
        lines = [
            line.replace(choices, r"[\"x task=evil\", \"x task=evil\"]") if '"op_code":4' in line else line
            for line in text.splitlines()
        ]
        file.write_text("\n".join(lines) + "\n")
        runs = Runs(lambda overrides: End(value=1.0))
        trials = searched(tmp_path, runs, ["data.root=a,b"], n_trials=2)
        assert "evil" not in "".join(o for run in runs_of(tmp_path) for o in run.overrides)
        assert trials.all()[0].state is TrialState.RUNNING


class TestTable:
    def test_a_search_of_debug_runs_has_no_best_trial(self, tmp_path):
        trials = searched(tmp_path, Runs(), [RATE], n_trials=3)
        table = TrialsTable(trials, "1step", Table())
        assert "Best: trial" in table.text()
        found = {"metrics": {"1step": 1.0}, "debug": "smoke"}
        (runs_of(tmp_path)[0].directory / "result.json").write_text(json.dumps(found))
        assert "Best" not in table.text()

    def test_trials_reasons_best_and_plots(self, tmp_path, capsys):
        trials = searched(tmp_path, Runs(), [RATE, "seed=1,2"], n_trials=12)
        TrialsTable(trials, "1step", Table()).show(tmp_path)
        out, err = capsys.readouterr()
        text = (tmp_path / "table.md").read_text()
        assert "warning" not in err.lower()
        assert "experimental" not in err
        for trial in trials.all():
            assert f"| {trial.number} | {trial.user_attrs['run']} | " in text
            if trial.user_attrs["state"] == "diverged":
                assert f"- trial {trial.number}, diverged: the loss is not finite" in text
        best = min((t for t in trials.all() if t.value is not None), key=lambda trial: trial.value)
        line = f"optimizer.lr={best.params['optimizer.lr']!r} seed={best.params['seed']}"
        assert f"Best: trial {best.number}, 1step {best.value:.4g}, with\n\n    {line}\n" in out
        assert "## Runs" in text
        for name in ("importance", "slice"):
            assert (tmp_path / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
            assert (tmp_path / f"{name}.png").stat().st_size > 10_000

    @pytest.mark.parametrize(
        ("end", "why"),
        [
            (lambda _: End(fault="wild"), "0 of 3 trials completed, and it needs two"),
            (lambda _: End(value=1.0), "all trials have the same value"),
        ],
    )
    def test_without_what_is_to_be_drawn_plots_are_left_out(self, tmp_path, capsys, end, why):
        trials = searched(tmp_path, Runs(end), n_trials=3)
        TrialsTable(trials, "1step", Table()).show(tmp_path)
        out = capsys.readouterr().out
        assert f"importance   is left out: {why}" in out
        assert f"slice        is left out: {why}" in out
        assert not list(tmp_path.glob("*.png"))

    def test_a_parameter_of_one_value_can_be_drawn(self, tmp_path):
        lines = [RATE, "seed=choice(1)", "data.batch_size=int(interval(4, 4))"]
        trials = searched(tmp_path, Runs(), lines, n_trials=8)
        TrialsTable(trials, "1step", Table()).show(tmp_path)
        assert (tmp_path / "importance.png").is_file()

    def test_pyplot_is_left_as_it_was(self, tmp_path):
        from matplotlib import pyplot

        before = dict(pyplot.rcParams)
        trials = searched(tmp_path, Runs(), n_trials=6)
        TrialsTable(trials, "1step", Table()).show(tmp_path)
        assert dict(pyplot.rcParams) == before
        assert pyplot.get_fignums() == []


class TestOptions:
    @pytest.mark.parametrize(
        ("changes", "said"),
        [
            ({"n_trials": 0}, r"hydra\.sweeper\.n_trials=0 must be"),
            ({"n_trials": "many"}, r"hydra\.sweeper\.n_trials=many must be"),
            ({"sampler": None}, r"hydra\.sweeper\.sampler=null proposes nothing"),
            ({"direction": "down"}, r"hydra\.sweeper\.direction=down must be minimize or maximize"),
            ({"sampler": {**TPE, "seed": -1}}, r"hydra\.sweeper\.sampler\.seed=-1 must be 0 or greater"),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes, said):
        with pytest.raises(UserError, match=said):
            options(**changes).check()

    def test_without_optuna(self, monkeypatch):
        monkeypatch.setattr(consistency_sweeps, "find_spec", lambda name: None)
        search = consistency_sweeps.Search(table=None)
        search.hydra_context = search.config = object()
        search.launcher = consistency_sweeps.Processes()
        with pytest.raises(UserError, match=r"pip install 'consistency\[sweep\]'"):
            search.sweep([])


class TestCommand:
    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["optimized_metric=null"], "optimized_metric is null: give optimized_metric=NAME"),
            (
                ["optimizer.lr=tag(log, interval(0, 1))"],
                "optimizer.lr=tag(log, interval(0, 1)) is no search space",
            ),
            (["optimizer.lr=1e-3"], "sweep=optuna has nothing to search"),
            (["optimizer.lrr=interval(0, 1)"], "did you mean 'lr'?"),
            (["optimizer=adam,adman"], "optimizer=adman is not in configs/optimizer: did you mean 'adam'?"),
            (["method=ict,edm"], "give optimized_metric=NAME on the command line"),
            (["hydra/launcher=basic"], "leave out hydra/launcher"),
            (["hydra.sweeper.pruner.percentile=200"], "hydra.sweeper.pruner: Percentile must be between"),
            (["+hydra.sweeper.sampler.steps=3"], "hydra.sweeper.sampler: "),
            (["hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0 must be a number of trials"),
        ],
    )
    def test_what_cannot_be_is_refused_before_anything_starts(self, tmp_path, overrides, said):
        small = SMALL[1:] if overrides[0].startswith("method=") else SMALL
        refused = run("train.py", tmp_path / "s", "sweep=optuna", *small, *overrides)
        assert refused.status == 1
        (line,) = refused.err.strip().splitlines()
        assert line.startswith("error: ")
        assert said in line
        assert not list(tmp_path.rglob("*.log"))
        assert not list(tmp_path.rglob("overrides.json"))

    def test_a_search_goes_on_by_its_own_command(self, tmp_path):
        command = [
            "sweep=optuna",
            *SMALL,
            'hydra.sweeper.params.optimizer.lr="tag(log, interval(1e-4, 1e-2))"',
        ]
        first = run("train.py", tmp_path, *command, "hydra.sweeper.n_trials=1")
        assert first.status == 0, first.err
        results = (tmp_path / "0" / "result.json").read_bytes()
        swept = run("train.py", tmp_path, *command, "hydra.sweeper.n_trials=2")
        assert swept.status == 0, swept.err
        assert (tmp_path / "0" / "result.json").read_bytes() == results
        assert (tmp_path / "1" / "result.json").is_file()
        assert "1 ended before" in swept.out
        found = {key: json.loads((tmp_path / key / "result.json").read_text())["metrics"] for key in "01"}
        best = min(metrics["SW2/1step"] for metrics in found.values())
        assert f"1step {best:.4g}, with" in swept.out
        assert (tmp_path / "slice.png").is_file()
        for stream in (first.err, swept.err):
            assert "optuna" not in stream.lower()

    @pytest.mark.slow
    @pytest.mark.timeout(6000)
    @pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
    def test_stopped_at_any_moment_it_ends_with_the_same_trials(self, tmp_path, signum):
        steps = ["trainer.max_steps=60", "trainer.val_check_interval=20", "callbacks.checkpoints.every=10"]
        command = ["sweep=optuna", *SMALL, *steps, RATE, "hydra.sweeper.n_trials=3"]

        def found(directory):
            made = [json.loads((directory / name / "result.json").read_text()) for name in "012"]
            file = JournalFileBackend(str(directory / "study.log"))
            study = optuna.load_study(study_name="ict_moons", storage=optuna.storages.JournalStorage(file))
            told = [(t.params, t.state, t.value, t.user_attrs, t.intermediate_values) for t in study.trials]
            return told, [(each["weights_sha256"], each["metrics"]) for each in made]

        whole = run("train.py", tmp_path / "whole", *command)
        assert whole.status == 0, whole.err
        expected = found(tmp_path / "whole")
        for moment, sign in enumerate(["0/overrides.json", "1/checkpoints/last.ckpt", "2/samples/1step.png"]):
            directory = tmp_path / str(moment)
            process = start("train.py", directory, *command)
            until((directory / sign).exists, sign, process)
            process.send_signal(signum)
            _, err = ended(process)
            assert process.returncode == (128 + signum if signum == signal.SIGTERM else -signum)
            assert signum == signal.SIGKILL or "go on with python" in err
            again = run("train.py", directory, *command)
            assert again.status == 0, again.err
            assert found(directory) == expected


class TestReports:
    def test_the_last_one_is_sent_again_when_the_run_goes_on(self, monkeypatch):
        sent = []
        monkeypatch.setattr(reports, "is_sweep_run", lambda: True)
        monkeypatch.setattr(reports, "send_report", lambda **facts: sent.append(facts))
        metrics = {"SW2/1step": 0.5}
        state = SimpleNamespace(fn="fit")
        trainer = SimpleNamespace(
            callback_metrics=metrics, global_step=10, max_steps=20, is_global_zero=True, state=state
        )
        first = reports.Reports("1step")
        assert first.state_dict() == {}
        first.on_train_start(trainer, None)
        first.on_validation_end(trainer, None)
        assert sent == [{"step": 10, "value": 0.5, "last": False}]
        again = reports.Reports("1step")
        again.load_state_dict(first.state_dict())
        again.on_train_start(trainer, None)
        assert sent == 2 * [{"step": 10, "value": 0.5, "last": False}]
        other = reports.Reports("2step")
        other.load_state_dict(first.state_dict())
        other.on_train_start(trainer, None)
        assert len(sent) == 2
        trainer.global_step, metrics["SW2/1step"] = 20, math.nan
        again.on_validation_end(trainer, None)
        assert sent[2] == {"step": 20, "value": None, "last": True}
