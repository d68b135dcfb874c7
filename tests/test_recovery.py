"""A run that goes back: to which state, with what record, and as if no kill had come between."""

import math
import shutil
import signal
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consistency.errors import Spoiled, UserError
from consistency.files import atomic
from consistency.files.atomic import keep_as, replacing
from consistency.files.checkpoints import newest, set_aside
from consistency.lit.callbacks.checkpoints import Checkpoints
from consistency.lit.callbacks.guard import Guard
from consistency.lit.callbacks.recovery import rollback_points
from consistency.lit.divergence import Collapsed, Diverged
from consistency.lit.rollback_record import Rollback, RollbackRecord
from consistency.lit.states import BEGINNING, newest_passed, state_before
from consistency.teachers.checkpoint import read_checkpoint
from tests.conftest import run
from tests.faults import TINY, faults
from tests.kills import begin, curves, differing, left
from tests.sessions import save_edited, train_here

METRICS = {"none": "optimized_metric=null", "metric": "optimized_metric=1step"}
THREE = {"poison": [3, 47], "collapse": [60]}  # to the beginning, to last.ckpt, to good.ckpt


def content(directory, name="last.ckpt"):
    return read_checkpoint(directory / "checkpoints" / name)


def guard_in(directory, name="last.ckpt"):
    return content(directory, name)["callbacks"]["Guard"]


def events(result):
    return [(e["step"], e["checkpoint"], e["back_to"]) for e in result["rollback_events"]]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory):
    place = tmp_path_factory.mktemp("healthy")
    return place, train_here(place, *TINY, METRICS["none"])


@pytest.fixture
def copy(healthy, tmp_path):
    """A copy of a run that ended well, to go on with."""
    return shutil.copytree(healthy[0], tmp_path / "copy")


@pytest.fixture(scope="module", params=METRICS)
def three(request, tmp_path_factory):
    """A run that went back three times, its result, and how its best is chosen."""
    place, metric = tmp_path_factory.mktemp("three"), METRICS[request.param]
    return place, train_here(place, *TINY, metric, faults(**THREE)), metric


# Three in a row, and kills


def test_a_run_goes_back_to_the_beginning_to_the_newest_and_to_the_newest_good_state(three):
    place, result, metric = three
    name = "good.ckpt" if "null" in metric else "best.ckpt"  # of the same step
    went = [(3, None, 0), (47, "last.ckpt", 45), (60, name, 40)]
    assert (result["steps"], result["rollbacks"], events(result)) == (60, 3, went)
    first, _, last = result["rollback_events"]
    assert first["reason"] == "the loss is not finite"
    assert 0.002 <= first["low"] <= first["high"] <= 80
    assert (last["low"], last["high"]) == (pytest.approx(80), pytest.approx(80))
    assert last["reason"].startswith("samples of 1step have collapsed")
    assert [s["steps"] for s in result["segments"]] == [[0, 40], [40, 60]]
    assert [s["lr"] for s in result["segments"]] == [0.001, 0.00025]
    assert guard_in(place)["events"] == result["rollback_events"]


def test_the_log_has_each_step_once_and_shows_when_the_run_went_back(three):
    place, _, _ = three
    found = curves(place / "tensorboard")
    for name in ("train/loss", "FD(digits)/1step", "samples/1step", "loss_by_sigma/00"):
        steps = [point[0] for point in found.get(name, [])]
        assert steps == sorted(set(steps)), name
    assert [point[0] for point in found["train/loss"]] == [*range(4, 60, 5)]
    assert found["guard/rollbacks"] == [(0, 0), (0, 1), (39, 1), (40, 3)]
    assert found["guard/factor"] == [(0, 1), (0, 0.5), (39, 0.5), (40, 0.125)]
    assert found["guard/reason/text_summary"] == [0, 40]
    events = EventAccumulator(str(place / "tensorboard"))
    events.Reload()
    text = events.Tensors("guard/reason/text_summary")[1].tensor_proto.string_val[0].decode()
    assert "not finite at step 47" in text
    assert "collapsed" in text


@pytest.mark.parametrize("three", ["none", pytest.param("metric", marks=pytest.mark.slow)], indirect=True)
def test_a_kill_before_or_after_each_is_written_down_leaves_no_trace(three, tmp_path):
    place, result, metric = three
    words = [*TINY, metric, faults(**THREE, kill=[*range(6)], marks=tmp_path)]
    for moment in range(6):
        process = begin(tmp_path / "run", *words)
        process.join(120)
        assert process.exitcode == -signal.SIGKILL
        said = (tmp_path / "run.err").read_text() + (tmp_path / "run.out").read_text()
        assert (tmp_path / f"kill-{moment}").exists()
        assert f"(rollback {moment // 2 + 1} of 3)" in said or moment % 2
        if moment % 2:  # it is written down
            written = guard_in(tmp_path / "run")
            assert (written["rollbacks"], len(written["events"])) == (moment // 2 + 1,) * 2
    again = train_here(tmp_path / "run", *words, "ckpt_path=last")
    assert differing(left(place), left(tmp_path / "run")) == []
    assert again["rollback_events"] == result["rollback_events"]
    assert [s["steps"] for s in again["segments"]] == [s["steps"] for s in result["segments"]]
    assert [s["lr"] for s in again["segments"]] == [s["lr"] for s in result["segments"]]


@pytest.mark.slow
def test_two_processes_go_back_three_times(three, tmp_path):
    _, result, metric = three
    words = [*TINY, "trainer=ddp_sim", metric, faults(**THREE)]
    two = run("train.py", tmp_path / "two", *(word for word in words if word != "trainer=cpu"))
    assert two.status == 0, two.err
    assert (two.result["rollbacks"], events(two.result)) == (3, events(result))
    assert [two.err.count(f"rollback {i} of 3") for i in (1, 2, 3)] == [1, 1, 1]


# More than are allowed


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run that has gone wrong once more than it may."""
    place = tmp_path_factory.mktemp("ended")
    with pytest.raises(UserError) as caught:
        train_here(place, *TINY, METRICS["none"], faults(poison=[47] * 4), "callbacks.guard.rollbacks=3")
    return place, caught.value


def test_a_run_that_may_not_go_back_again_says_so_and_leaves_its_state(ended):
    place, fault = ended
    assert "after 3 rollbacks and with optimizer.lr=0.002 times 0.125: " in str(fault)
    assert "ckpt_path=last callbacks.guard.rollbacks=5; last.ckpt is of step 45" in str(fault)
    assert isinstance(fault.__cause__, Diverged)
    written = guard_in(place)
    assert (content(place)["global_step"], written["rollbacks"], written["ended"]) == (45, 4, True)
    assert [e["step"] for e in written["events"]] == [47] * 4


def test_and_when_it_is_gone_on_with_it_says_so_again(ended, tmp_path):
    place = shutil.copytree(ended[0], tmp_path / "again")
    words = [*TINY, METRICS["none"], faults(poison=[47] * 4)]
    before = (place / "checkpoints" / "last.ckpt").read_bytes()
    said = r"callbacks\.guard\.rollbacks=3: .* gone back 3 times, .* not finite at step 47, .*rollbacks=5$"
    with pytest.raises(UserError, match=said):
        train_here(place, *words, "ckpt_path=last")
    assert (place / "checkpoints" / "last.ckpt").read_bytes() == before


def test_with_more_it_becomes_the_run_that_was_allowed_them_from_the_beginning(ended, tmp_path, capsys):
    place = shutil.copytree(ended[0], tmp_path / "again")
    words = [*TINY, METRICS["none"], faults(poison=[47] * 4), "callbacks.guard.rollbacks=5"]
    result = train_here(place, *words, "ckpt_path=last")
    assert "this run has gone back 4 times" in capsys.readouterr().out
    straight = train_here(tmp_path / "straight", *words)
    assert (result["rollbacks"], result["rollback_events"]) == (4, straight["rollback_events"])
    rest = {"curve config/text_summary"}  # which says that more were allowed
    assert {*differing(left(tmp_path / "straight"), left(place))} <= rest


def test_without_any_it_ends_at_the_beginning(tmp_path):
    words = [*TINY, METRICS["none"], faults(poison=[3] * 2)]
    with pytest.raises(Spoiled, match=r"after 0 rollbacks .* last\.ckpt is of step 0, from before"):
        train_here(tmp_path, *words, "callbacks.guard.rollbacks=0")
    with pytest.raises(Spoiled, match=r"gone back 0 times, and then went wrong again"):
        train_here(tmp_path, *words, "callbacks.guard.rollbacks=0", "ckpt_path=last")
    assert guard_in(tmp_path)["rollbacks"] == 1
    result = train_here(tmp_path, *words, "callbacks.guard.rollbacks=2", "ckpt_path=last")
    assert (result["steps"], result["rollbacks"]) == (60, 2)


# Collapses


@pytest.mark.parametrize("metric", METRICS.values())
def test_a_collapse_that_ends_a_run_leaves_the_newest_good_state(tmp_path, metric):
    words = [*TINY, metric, faults(collapse=[60] * 2), "callbacks.guard.rollbacks=1"]
    with pytest.raises(Spoiled, match=r"collapsed .* at step 60, .* last\.ckpt is of step 40"):
        train_here(tmp_path, *words, "callbacks.checkpoints.keep_every=25")
    assert (content(tmp_path)["global_step"], guard_in(tmp_path)["rollbacks"]) == (40, 2)
    names = {path.name for path in (tmp_path / "checkpoints").glob("*step=*")}
    assert names == {"step=00000025.ckpt", "undone_step=00000050.ckpt"}
    assert content(tmp_path, newest(tmp_path).name)["global_step"] == 40


def test_a_collapse_before_anything_was_judged_good_goes_back_to_the_beginning(tmp_path, capsys):
    result = train_here(tmp_path, *TINY, METRICS["none"], faults(collapse=[20]))
    assert events(result) == [(20, None, 0)]
    assert "back to the beginning (no state on disk has passed a validation)" in capsys.readouterr().err
    assert [s["steps"] for s in result["segments"]] == [[0, 60]]


# Going on


def test_a_nan_in_the_first_step_after_going_on(copy):
    words = [*TINY, METRICS["none"], "trainer.max_steps=70", faults(poison=[60])]
    result = train_here(copy, *words, "ckpt_path=last")
    assert (events(result), result["steps"]) == ([(60, "last.ckpt", 60)], 70)
    assert [(s["steps"], s["lr"]) for s in result["segments"]] == [([0, 60], 0.002), ([60, 70], 0.001)]
    assert result["segments"][1]["changed"]["trainer.max_steps"] == [60, 70]


def test_a_run_that_goes_on_from_an_older_checkpoint_gives_up_what_came_after(tmp_path, capsys):
    words = [*TINY, METRICS["none"], faults(poison=[47] * 2), "callbacks.checkpoints.keep_every=25"]
    train_here(tmp_path, *words)
    older = tmp_path / "checkpoints" / "step=00000025.ckpt"
    assert (guard_in(tmp_path)["rollbacks"], guard_in(tmp_path, older.name)["rollbacks"]) == (2, 0)
    with pytest.raises(UserError):  # at the first step: 25, of which nothing has been saved since
        train_here(tmp_path, *TINY, METRICS["none"], faults(poison=[25] * 2), f"ckpt_path='{older}'",
                   "callbacks.checkpoints.keep_every=25", "callbacks.guard.rollbacks=1")  # fmt: skip
    assert f"{older} is from before 2 of the rollbacks: they no longer count" in capsys.readouterr().err
    kept = content(tmp_path)
    assert (kept["global_step"], kept["callbacks"]["Guard"]["rollbacks"]) == (25, 2)
    assert {e["step"] for e in kept["callbacks"]["Guard"]["events"]} == {25}


def test_a_checkpoint_of_another_directory_is_where_a_run_goes_back_to(healthy, tmp_path):
    older = healthy[0] / "checkpoints" / "good.ckpt"
    words = [*TINY, METRICS["none"], "trainer.max_steps=70", f"ckpt_path={older}"]
    result = train_here(tmp_path, *words, faults(poison=[61]))
    assert (events(result), result["steps"]) == ([(61, "good.ckpt", 60)], 70)


def test_a_checkpoint_of_another_directory_that_has_collapsed_is_refused(healthy, tmp_path):
    older = healthy[0] / "checkpoints" / "good.ckpt"
    words = [*TINY, METRICS["none"], "trainer.max_steps=70", f"ckpt_path={older}"]
    with pytest.raises(UserError, match=r"good\.ckpt cannot be gone on with: samples of 1step have"):
        train_here(tmp_path, *words, faults(collapse=[60]))


def test_a_checkpoint_of_before_goes_on(copy):
    """It has no record, and the state of an older version of the guard."""
    path = copy / "checkpoints" / "good.ckpt"
    kept = read_checkpoint(path)
    guard = kept["callbacks"]["Guard"]
    kept["callbacks"]["Guard"] = {name: guard[name] for name in ("rollbacks", "varied", "spikes")}
    kept["callbacks"]["Checkpoints"]["best"] = math.nan  # frozen, as they were once
    for other in ("last", "good"):
        (copy / "checkpoints" / f"{other}.ckpt").unlink()
    save_edited(kept, copy / "checkpoints" / "last.ckpt")
    words = [*TINY, METRICS["none"], "trainer.max_steps=80", "callbacks.guard.rollbacks=1"]
    result = train_here(copy, *words, faults(collapse=[80]), "ckpt_path=last")
    assert (events(result), result["steps"]) == ([(80, "good.ckpt", 60)], 80)


# The best


class Trainer(SimpleNamespace):
    """As much of one as a callback of checkpoints needs."""

    def __init__(self, **values):
        loop = SimpleNamespace(epoch_loop=SimpleNamespace(max_steps=9))
        super().__init__(state=SimpleNamespace(fn="fit"), fit_loop=loop, callbacks=[], saved=[], **values)

    def save_checkpoint(self, path):
        self.saved.append(path.name)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_never_the_best(bad, tmp_path):
    callback = Checkpoints(str(tmp_path), monitor="1step")
    for step, value in enumerate([bad, 3.0, bad, 2.0, 4.0]):
        metrics = {"FD/1step": torch.tensor(value), "FD/2step": torch.tensor(0.0)}
        trainer = Trainer(global_step=step, callback_metrics=metrics)
        callback.on_validation_end(trainer, None)
        assert trainer.saved == (["best.ckpt"] if value in (3.0, 2.0) else [])
    assert callback.best == 2.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_best_that_is_not_finite_is_not_taken_up(bad, tmp_path):
    callback = Checkpoints(str(tmp_path), monitor="1step")
    callback.load_state_dict({"best": bad, "monitor": "1step", "validated": 1})
    assert callback.best is None
    trainer = Trainer(global_step=2, callback_metrics={"FD/1step": torch.tensor(7.0)})
    callback.on_validation_end(trainer, None)
    assert (trainer.saved, callback.best) == (["best.ckpt"], 7.0)


def test_the_best_of_steps_that_are_undone_stays_the_best(tmp_path):
    callback = Checkpoints(str(tmp_path), monitor="1step")
    callback.best = 3.0  # handed over, that of best.ckpt
    callback.load_state_dict({"best": 5.0, "monitor": "1step", "validated": 1})
    assert callback.best == 3.0


def test_a_frozen_best_is_free_again_when_a_run_goes_on(copy):
    kept = content(copy)
    kept["callbacks"]["Checkpoints"] |= {"best": math.nan, "monitor": "1step"}
    save_edited(kept, copy / "checkpoints" / "last.ckpt")
    train_here(copy, *TINY, METRICS["metric"], "trainer.max_steps=80", "ckpt_path=last")
    assert (copy / "checkpoints" / "best.ckpt").is_file()
    assert math.isfinite(content(copy)["callbacks"]["Checkpoints"]["best"])


# The newest state that passed


def states(folder, **steps):
    folder.mkdir(parents=True)
    for name, step in steps.items():
        kept = {"state_dict": {}, "config": {}, "callbacks": {}, "global_step": step}
        save_edited(kept, folder / f"{name.replace('_', '=')}.ckpt")
    return folder


@pytest.mark.parametrize(
    ("passed", "found"),
    [(None, None), (5, None), (10, "best"), (30, "step=30"), (40, "good"), (55, "good"), (60, "step=60")],
)
def test_the_newest_state_that_passed_is_found(tmp_path, passed, found):
    folder = states(tmp_path / "checkpoints", last=70, best=10, good=40, step_30=30, step_60=60)
    path = newest_passed(folder, passed)
    assert (path and path.stem) == found


def test_a_damaged_one_is_left_out(tmp_path):
    folder = states(tmp_path / "checkpoints", last=70, best=10, good=40)
    (folder / "good.ckpt").write_bytes(b"half")
    assert newest_passed(folder, 40).stem == "best"


def test_what_is_no_collapse_goes_back_to_the_newest(tmp_path):
    states(tmp_path / "checkpoints", last=70, best=10, good=40)
    fault, collapse = Diverged("bad", 75, 1, 2), Collapsed("alike", 70, 80, 80)
    assert state_before(fault, tmp_path, 40, None).step == 70
    assert state_before(collapse, tmp_path, 40, None).step == 40
    assert state_before(collapse, tmp_path, None, None) == BEGINNING


def test_a_state_within_a_spike_is_left_out_if_there_is_a_calm_one(tmp_path):
    folder = states(tmp_path / "checkpoints", last=70)
    spike = {"Guard": {"spikes": {"streak": torch.tensor([0.0, 2.0])}}}
    kept = {"state_dict": {}, "config": {}, "callbacks": spike, "global_step": 70}
    save_edited(kept, folder / "last.ckpt")
    fault = Diverged("the loss stays far above what is usual", 72, 1, 2)
    assert state_before(fault, tmp_path, None, None).step == 70
    save_edited(kept | {"callbacks": {}, "global_step": 40}, folder / "good.ckpt")
    assert state_before(fault, tmp_path, None, None).step == 40


def test_undone_states_are_set_aside(tmp_path):
    folder = states(tmp_path / "checkpoints", last=70, step_30=30, step_60=60)
    set_aside(folder, 30)
    assert {path.name for path in folder.iterdir()} == {"last.ckpt", "step=30.ckpt", "undone_step=60.ckpt"}


@pytest.mark.parametrize("links", [True, False])
def test_a_second_name_is_of_the_file_as_it_was(tmp_path, links, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError("no links here")

    if not links:
        monkeypatch.setattr(atomic.os, "link", refuse)
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    for text in ("first", "second"):
        with replacing(one) as temporary:
            temporary.write_text(text)
        if text == "first":
            two.write_text("of before")
            keep_as(one, two)
            assert two.stat().st_nlink == 1 + links
    assert (one.read_text(), two.read_text(), len([*tmp_path.iterdir()])) == ("second", "first", 2)


def test_samples_that_are_not_finite_pass_no_validation(monkeypatch):
    module = SimpleNamespace(samplers={"1step": None})
    trainer = SimpleNamespace(state=SimpleNamespace(fn="fit"), global_step=20, datamodule=None)
    guard = Guard(0.01, 100.0)
    monkeypatch.setattr("consistency.lit.callbacks.guard.data_of", lambda _: None)
    monkeypatch.setattr("consistency.lit.callbacks.guard.many_samples", lambda _: torch.randn(9, 2))
    monkeypatch.setattr("consistency.lit.callbacks.guard.sum_over_processes", lambda x, _: x)
    for value, passed in ((math.nan, None), (1.0, 20)):
        guard.moments = {"1step": torch.tensor([0.0, 0.0, value, 9.0])}
        guard.on_validation_epoch_end(trainer, module)
        assert guard.passed == passed


# The record


def test_a_record_survives_a_checkpoint_and_is_not_shortened_by_an_older_one():
    record, fresh = RollbackRecord(), RollbackRecord()
    for step in (3, 47):
        record.add(Rollback(step, "bad", 1.0, 2.0, "last.ckpt", step - 1), allowed=1)
    assert record.ended
    fresh.load_state_dict(record.state_dict())
    assert (fresh.count, fresh.listed, fresh.ended) == (2, record.listed, True)
    fresh.load_state_dict({"rollbacks": 1, "events": record.to_plain()[:1]})
    assert (fresh.count, len(fresh.listed), fresh.written, len(fresh.unlogged())) == (2, 2, 1, 1)


@pytest.mark.parametrize(
    ("before", "now", "step", "expected"),
    [
        (None, 0, 0, [(0, 0)]),
        (None, 1, 0, [(0, 0), (0, 1)]),
        (0, 0, 60, []),
        (1, 3, 40, [(39, 1), (40, 3)]),
    ],
)
def test_a_rollback_is_a_step_in_the_curve(before, now, step, expected):
    assert rollback_points(before, now, step) == expected


EVENT = {"step": 47, "reason": "bad", "low": 0.1, "high": 2.0, "checkpoint": None, "back_to": 0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rollbacks": 2**40}, "rollbacks=1099511627776 is above 1001"),
        ({"rollbacks": 0}, "more events than rollbacks"),
        ({"logged": -1}, "logged=-1 is no count"),
        ({"passed": 1.5}, "passed=1.5 is no count"),
        ({"ended": 1}, "ended is of type int"),
        ({"events": {}}, "events is of type dict"),
        ({"events": [], "ended": True}, "ended without an event"),
        ({"events": [3]}, r"events\.0 is of type int"),
        ({"events": [{}]}, r"events\.0 must have back_to, checkpoint, high"),
        *(
            ({"events": [{**EVENT, key: value}]}, rf"events\.0\.{key}")
            for key, value in (
                ("step", -1),
                ("back_to", 0.5),
                ("low", math.nan),
                ("high", "2"),
                ("reason", "\x1b[31m"),
                ("reason", "x" * 1001),
                ("checkpoint", 3),
                ("checkpoint", "a\nb"),
            )
        ),
    ],
)
def test_a_record_that_nobody_wrote_is_refused_in_one_line(copy, change, said):
    kept = content(copy)
    kept["callbacks"]["Guard"] |= {"rollbacks": 1, "events": [EVENT], **change}
    path = copy / "checkpoints" / "edited.ckpt"
    save_edited(kept, path)
    with pytest.raises(UserError, match=said) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
