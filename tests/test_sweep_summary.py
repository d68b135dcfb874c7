"""What a sweep says of its runs together: mean and spread over seeds, the best one, and the time left."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from consistency.sweep.outlook import best, named_steps
from consistency.sweep.pool import Pool
from consistency.sweep.runs import Run, RunState
from consistency.sweep.seeds import over_seeds
from consistency.sweep.table import COLUMNS, brief_table, table_text
from consistency.sweep.work import Sweep


def run(tmp_path, name, *overrides, state=RunState.FINISHED, seconds=10.0, **metrics):
    result = {"metrics": metrics, "seconds": seconds} if state is RunState.FINISHED else None
    return Run(tmp_path / str(name), overrides, state, result)


@pytest.fixture
def runs(tmp_path):
    return [
        run(tmp_path, 0, "optimizer.lr=1e-3", "seed=1", FD=1.0),
        run(tmp_path, 1, "optimizer.lr=0.001", "seed=2", FD=3.0),
        run(tmp_path, 2, "optimizer.lr=0.002", "seed=1", FD=0.5),
        run(tmp_path, 3, "optimizer.lr=0.002", "seed=2", state=RunState.FAILED),
    ]


def test_finished_runs_that_differ_in_their_seed_alone_have_a_mean_and_a_spread(runs):
    table = over_seeds(runs, [], ["FD"])
    assert table.head == ["overrides", "seeds", "FD"]
    assert table.rows == [["optimizer.lr=1e-3", "1, 2", "2 ± 1.4"]]  # however the value is written
    assert over_seeds(runs[2:], [], ["FD"]) is None


def test_a_mean_says_of_how_many_runs_it_is(tmp_path):
    some = [run(tmp_path, i, f"seed={i}", **({"FD": float(i)} if i else {})) for i in range(3)]
    assert over_seeds(some, [], ["FD"]).rows == [["", "0, 1, 2", "1.5 ± 0.71 (2 of 3)"]]
    assert over_seeds(some[:2], [], ["FD"]).rows == [["", "0, 1", "1 (1 of 2)"]]


def test_the_file_has_every_metric_and_the_terminal_those_that_fit(tmp_path):
    metrics = {f"FD(digits)/{n}step": 1.0 for n in range(9)} | {"gap/self": 2.0}
    some = [run(tmp_path, i, f"seed={i}", **metrics) for i in range(2)]
    assert all(name in table_text(some) for name in metrics)
    assert max(map(len, brief_table(some).splitlines())) <= COLUMNS
    assert "FD(digits)/0step" in brief_table(some)
    assert "gap/self" not in brief_table(some)
    assert "1 ± 0" in brief_table(some)


def test_the_best_run_is_the_finished_one_with_the_lowest_value(runs):
    assert best(runs, "FD") == "best         run 2, FD 0.5, with optimizer.lr=0.002 seed=1"
    assert best(runs, None) is None
    assert best(runs, "another") is None
    assert best(runs[2:], "FD") is None  # of one run, nothing is best


def test_debug_runs_are_marked_and_never_the_best(runs):
    cut = [replace(run, result=run.result and {**run.result, "debug": "smoke"}) for run in runs]
    assert best(cut, "FD") is None
    assert best([*runs[:2], cut[2]], "FD") == "best         run 0, FD 1, with optimizer.lr=1e-3 seed=1"
    assert "| finished (debug=smoke) |" in table_text(cut)
    assert "debug" not in table_text(runs)


class TestTimeLeft:
    @pytest.fixture
    def sweep(self, tmp_path):
        return lambda **known: Sweep(tmp_path, Pool(2, []), lambda *_: "0", **known)

    def test_runs_that_have_ended_say_how_long_the_others_take(self, sweep, tmp_path, capsys):
        settled = [run(tmp_path, i, f"seed={i}", seconds=s) for i, s in enumerate((90.0, 110.0))]
        waiting = [run(tmp_path, i, f"seed={i}", state=RunState.WAITING) for i in (2, 3, 4, 5)]
        sweep().announce([*settled, *waiting])
        assert "4 to go, about 0:03:20 by the 2 before" in capsys.readouterr().out  # two at a time

    def test_without_any_the_steps_are_said_and_no_time_is_invented(self, sweep, tmp_path, capsys):
        waiting = [run(tmp_path, i, f"seed={i}", state=RunState.WAITING) for i in (0, 1)]
        sweep(steps=4000).announce(waiting)
        out = capsys.readouterr().out
        assert "4000 steps each; how long they take is known after the first" in out
        assert not re.search(r"\d:\d\d:\d\d", out)
        given = [run(tmp_path, 0, "trainer.max_steps=20", state=RunState.WAITING)]
        sweep(steps=4000).announce(given)
        assert "20 steps each" in capsys.readouterr().out

    def test_it_is_known_after_the_first(self, sweep):
        made = sweep()
        assert made.rest(4) == ""
        made.took.append(60.0)
        assert made.rest(4) == ", about 0:02:00 left"
        assert made.rest(0) == ""

    @pytest.mark.parametrize(("name", "steps"), [("oracle", 4000), ("grid", None)])
    def test_the_file_of_a_sweep_may_name_the_steps_of_all_its_runs(self, name, steps):
        choices = OmegaConf.create({"sweep": name})
        config = SimpleNamespace(
            hydra=SimpleNamespace(runtime=SimpleNamespace(choices=choices)),
            trainer=SimpleNamespace(max_steps=4000),
        )
        assert named_steps(config) == steps
