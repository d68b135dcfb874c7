"""What may change when a run goes on: every key has a defined outcome."""

import json
import math

import pytest
import torch
from omegaconf import OmegaConf, open_dict

from consistency.continuation import (
    Continuation,
    checkpoint_override,
    compare_with_checkpoint,
    metric_value,
    nothing_left,
    override_keys,
)
from consistency.continuation.again import command_of
from consistency.continuation.differences import find_differences
from consistency.errors import UserError
from consistency.lit.callbacks.history import Clock, History, total_images, total_seconds
from consistency.lit.data.digits import Digits
from consistency.lit.data.folder import ImageFolder
from consistency.lit.data.identity import check_identity, identity_of, point_sums
from consistency.lit.data.points import Ring
from consistency.lit.loop_counters import rewrite_counters, was_validated
from consistency.schema.rules import FREE, PLACE, RECORDED, REFUSED, RULES, effect
from tests.sessions import composed

BASE = ("experiment=ict_digits", "run_dir=runs/old")
OUTPUT = "hydra.runtime.output_dir"


def config(*words, name="train"):
    """As composed, with the places of a run, which Hydra would know."""
    found = composed(name, *words)
    place = found.run_dir
    with open_dict(found):
        for logger in found.logger.values():
            logger.save_dir = place
        found.callbacks.samples.directory = f"{place}/samples"
        found.callbacks.checkpoints.directory = f"{place}/checkpoints"
        if "store" in found:
            found.store.path = f"{place}/rollouts"
    return found


def kept(*words, experiment="ict_digits", step=200):
    """What a checkpoint of such a run holds."""
    return {
        "config": OmegaConf.to_container(config(*words), resolve=True),
        "experiment": experiment,
        "global_step": step,
    }


def test_the_command_that_goes_on_has_the_overrides_of_the_run(tmp_path):
    words = ["experiment=ict_digits", "trainer.max_steps=600", "run_dir=a b", "teacher.path='c d'"]
    (tmp_path / "result.json").write_text(json.dumps({"overrides": words}))
    given = ["experiment=ict_moons", "ckpt_path=old", "trainer.max_steps=650"]
    expected = """experiment=ict_digits "teacher.path='c d'" ckpt_path=old trainer.max_steps=650"""
    assert command_of(tmp_path, given) == f"python train.py {expected}"


@pytest.mark.parametrize("overrides", ["abc", [1], ["a=\x1b[2J"], ["a=" + 2000 * "b"], None])
def test_no_command_is_made_of_what_is_none(tmp_path, overrides):
    (tmp_path / "result.json").write_text(json.dumps({"overrides": overrides}))
    assert command_of(tmp_path, ["ckpt_path=old"]) is None
    (tmp_path / "result.json").write_text("[")
    assert command_of(tmp_path, ["ckpt_path=old"]) is None


def go_on(there, *words, experiment="ict_digits", base=BASE):
    return compare_with_checkpoint(
        config(*base, *words), experiment, there, "run_dir=X", override_keys([*base, *words])
    )


@pytest.fixture(scope="module")
def old():
    return kept(*BASE)


def test_a_run_that_has_not_changed_says_nothing(old):
    found = go_on(old)
    assert (found.step, found.changes, found.line(config(*BASE))) == (200, [], None)


def test_another_place_is_no_change(old):
    found = go_on(old, base=("experiment=ict_digits", "run_dir=elsewhere", "ckpt_path=runs/old/last.ckpt"))
    assert found.changed == {}


@pytest.mark.parametrize(
    ("word", "key", "was"),
    [
        ("trainer.max_steps=320", "trainer.max_steps", 6000),
        ("trainer.val_check_interval=7", "trainer.val_check_interval", 2000),
        ("threads=2", "threads", 1),
        ("compile=true", "compile", False),
        ("data_dir=elsewhere", "data_dir", "data"),
        ("data.sample_batch=10", "data.sample_batch", 1000),
        ("+data.prefetch=2", "data.prefetch", None),
        ("optimizer.lr=0.1", "optimizer.lr", 2e-3),
        ("optimizer.betas=[0.8,0.9]", "optimizer.betas", [0.9, 0.999]),
        ("optimizer.weight_decay=0.1", "optimizer.weight_decay", 0.0),
        ("data.batch_size=64", "data.batch_size", 128),
        ("data.samples=64", "data.samples", 5000),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches", 1),
        ("trainer.precision=bf16-mixed", "trainer.precision", "32-true"),
        ("+trainer.gradient_clip_val=1", "trainer.gradient_clip_val", None),
        ("rate.warmup=7", "rate.warmup", 100),
        ("callbacks.guard.spike=20", "callbacks.guard.spike", 10.0),
        ("callbacks.checkpoints.every=7", "callbacks.checkpoints.every", 500),
        ("callbacks.ema.evaluate=raw", "callbacks.ema.evaluate", "ema"),
        ("ema.rampup=null", "ema.rampup", 0.05),
        ("teacher.path=elsewhere", "teacher.path", None),
    ],
)
def test_what_may_change_is_one_change_under_the_key_where_it_stands(old, word, key, was):
    found = go_on(old, word)
    new = OmegaConf.select(config(*BASE, word), key)
    assert found.changed == {key: [was, OmegaConf.to_container(new) if OmegaConf.is_config(new) else new]}
    assert found.line(config(*BASE, word)).startswith(f"from step 200 on: {key}=")
    json.dumps(found.changed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "net.width=32",
            "net.width is 32 here and 256 in run_dir=X: give net.width=256 to go on, or begin a new ",
        ),
        (
            "seed=1",
            "seed is 1 here and 0 in run_dir=X: give seed=0 to go on, or begin a new run from these weights",
        ),
        ("sigma.max=50", "sigma.max is 50 here and 80.0 in"),
        ("sigma.data=1", "sigma.data is 1 here and 0.5 in"),
        ("net.dropout=0.5", "net.dropout is 0.5 here and 0.0 in"),
        ("data.seed=3", "data.seed is 3 here and 0 in"),
        ("+data.flip=true", "data.flip is true here and absent in run_dir=X: leave data.flip out"),
        ("data.conditional=true", "data.conditional is true here and false"),
        ("data.images=64", "data.images is 64 here and null"),
        ("optimizer=adam", "optimizer is Adam here and RAdam in run_dir=X: give optimizer=radam to go on"),
        ("distance=l1", "distance is L1 here and PseudoHuber in run_dir=X: give distance=pseudo_huber"),
        ("distance.scale=1", "distance.scale is 1 here and 0.00054"),
        ("weight=uniform", "weight is Uniform here and InverseGap"),
        ("noise.mean=0", "noise.mean is 0 here and -1.1"),
        ("curriculum.s1=40", "curriculum.s1 is 40 here and 160"),
        ("target=ema", "target is EMATarget here and StopGradient"),
        ("pairs=linear", "pairs is TimePairs here and GridPairs"),
        ("flow=reference", "flow is "),
        ("precond=edm", "precond is EDM here and Boundary in run_dir=X: give precond=edm"),
        ("ema.images=1", "ema.images is 1 here and 40000"),
        ("ema=constant", "ema is Constant here and HalfLife in run_dir=X: give ema=half_life"),
        ("callbacks.ema=null", "callbacks.ema is null here and {...}"),
        ("data=digits64", "data.images is 64"),
        ("start=teacher", "module.start is {...} here and absent in run_dir=X: leave start=teacher out"),
    ],
)
def test_what_would_be_another_run_is_refused_by_name(old, words, said):
    if words == "precond=edm":
        said = "precond is EDM here and Boundary in run_dir=X: give precond=boundary"
    with pytest.raises(UserError) as refused:
        go_on(old, words)
    assert str(refused.value).startswith(said)
    assert "\n" not in str(refused.value)


def test_a_run_that_began_before_the_average_was_ramped_up_goes_on_with_the_ramp():
    ring = ("method=ict", "data=ring", "budget=points", "run_dir=runs/old")
    there = kept(*ring, experiment="ict_ring")
    for decay in (there["config"]["ema"], there["config"]["callbacks"]["ema"]["decays"]["ema"]):
        del decay["rampup"]
    found = go_on(there, base=ring, experiment="ict_ring")
    assert found.line(config(*ring)) == "from step 200 on: ema.rampup=0.25 (was null)"
    assert go_on(there, "ema.rampup=null", base=ring, experiment="ict_ring").changed == {}


def test_several_differences_are_all_named(old):
    with pytest.raises(
        UserError, match=r"optimizer is Adam .* \(these differ as well: seed, sigma.max\): give"
    ):
        go_on(old, "optimizer=adam", "seed=2", "sigma.max=7")


@pytest.mark.parametrize(
    ("words", "anew"),
    [
        ("seed=1", "start=teacher teacher.path=X and another run_dir"),
        ("net.width=2", "begin a new run in another run_dir"),  # no weights fit
    ],
)
def test_a_new_run_from_these_weights_is_offered_where_they_fit(old, words, anew):
    with pytest.raises(UserError, match=f"{anew}$"):
        go_on(old, words)


def test_another_experiment_is_named_before_anything_else():
    there = kept("experiment=edm_digits", "run_dir=runs/old", experiment="edm_digits")
    with pytest.raises(UserError, match=r"give experiment=edm_digits to go on, .* of that run$"):
        go_on(there)


def test_a_file_elsewhere_is_named_by_its_path(tmp_path):
    folder = tmp_path / "checkpoints"
    assert checkpoint_override(folder / "last.ckpt", tmp_path) == f"run_dir={tmp_path}"
    assert checkpoint_override(tmp_path / "a.ckpt", tmp_path / "new") == f"ckpt_path={tmp_path / 'a.ckpt'}"


def test_schedules_that_follow_the_horizon_are_said(old):
    line = go_on(old, "trainer.max_steps=320").line(config(*BASE, "trainer.max_steps=320"))
    assert line.endswith("=320 (was 6000); the learning rate and N(k) follow the new horizon from here on")
    level = ("experiment=ect_ring", "rate=flat", "curriculum=constant", "pairs=grid", "run_dir=a")
    words = ["trainer.max_steps=320"]
    there = kept(*level, experiment="ect_ring")
    found = go_on(there, *words, base=level, experiment="ect_ring")
    assert found.line(config(*level, *words)) == "from step 200 on: trainer.max_steps=320 (was 8000)"


def test_position_in_the_data_is_said_with_another_batch(old):
    line = go_on(old, "data.batch_size=64").line(config(*BASE))
    assert "step k takes the samples from k x the new batch size on" in line


def test_a_key_that_came_with_a_later_version_is_no_change(old):
    """Neither an argument that has its default, nor a section that nobody gave."""
    there = json.loads(json.dumps(old))
    del (
        there["config"]["callbacks"]["guard"]["spike"],
        there["config"]["augmentation"],
        there["config"]["compile"],
    )
    there["config"]["removed"] = {"some": 1}
    assert go_on(there).changed == {}
    del there["config"]["curriculum"]["s1"]  # whose default is another: the run would change
    with pytest.raises(UserError, match=r"curriculum\.s1 is 160 here and absent"):
        go_on(there)


def test_checkpoints_without_experiment_are_compared_by_what_they_have(old):
    there = {name: value for name, value in old.items() if name != "experiment"}
    assert go_on(there).changed == {}


def test_a_start_may_be_left_out_when_a_run_goes_on():
    base = ("experiment=ict_digits", "run_dir=a")
    there = kept(*base, "start=teacher", "teacher_run.experiment=edm_digits")
    assert go_on(there, base=base).changed == {}


METHOD = [
    "sigma",
    "net",
    "coordinate",
    "precond",
    "model",
    "noise",
    "pairs",
    "flow",
    "solver",
    "augmentation",
]
METHOD += ["distance", "weight", "target", "derivative", "bound", "balance", "objective", "module"]
METHOD += ["teacher_run"]
OUTCOMES = {  # what happens to a leaf of each section of a composed config; a section that is absent fails
    "seed": {REFUSED},
    "run_dir": {PLACE},
    "ckpt_path": {PLACE},
    "trust": {PLACE},
    "data_dir": {FREE},
    "threads": {FREE},
    "compile": {FREE},
    "optimized_metric": {FREE},
    "logger": {FREE, PLACE},
    "trainer": {FREE, RECORDED, REFUSED},
    "callbacks": {FREE, RECORDED, REFUSED, PLACE},
    "data": {FREE, RECORDED, REFUSED},
    "optimizer": {FREE, RECORDED, REFUSED},
    "rate": {RECORDED},
    "samplers": {RECORDED},
    "metric": {RECORDED, FREE},
    "curriculum": {FREE, REFUSED},
    "ema": {RECORDED, REFUSED},
    "teacher": {FREE, REFUSED},
    "store": {FREE, REFUSED},
    **{name: {REFUSED} for name in METHOD},
}


def leaves(node, path=()):
    if isinstance(node, dict) and node:
        for key, value in node.items():
            yield from leaves(value, (*path, str(key)))
    else:
        yield path


@pytest.mark.parametrize("experiment", ["ict_digits", "cd_cached_cifar10", "sct_digits", "ict_cifar10"])
def test_every_key_of_a_config_has_an_outcome(experiment):
    """A key of a section has an effect of that section; and what only refers to it is not judged."""
    raw = OmegaConf.to_container(config(f"experiment={experiment}", "run_dir=a"))
    for path in leaves(raw):
        assert effect(".".join(path)) in OUTCOMES[path[0]], path


@pytest.mark.parametrize("section", sorted(set(OUTCOMES) - {"store", "teacher_run"}))
def test_every_section_is_compared(old, section):
    """A value of each section, changed in the checkpoint, is found: allowed as the table says, or refused."""
    there = json.loads(json.dumps(old["config"]))
    node, path = there, ()
    while True:
        names = [k for k in node if not k.startswith("_") and k not in ("net", "shape", "classes")]
        key = section if not path else next(iter(names), "_target_")
        if not isinstance(node[key], dict) or not node[key]:
            break
        node, path = node[key], (*path, key)
    node[key] = "changed"
    found = find_differences(there, config(*BASE), [])
    assert len(found) == 1
    assert found[0].there == "changed"


def test_no_rule_is_dead():
    """Each pattern decides about some key of some experiment, or of a trainer."""
    keys = {"trainer.num_nodes", "trainer.strategy", "trainer.limit_val_batches", "trainer.benchmark"}
    keys |= {
        "trainer.gradient_clip_val",
        "data.prefetch",
        "optimizer.eps",
        "metric.extractor.weights",
        "metric",
    }
    keys |= {"callbacks.ema", "rate", "data.batches"}
    keys |= {"debug", "debug.runs", "debug.run.steps", "trainer.detect_anomaly"}
    for experiment in ("ict_digits", "cd_cached_cifar10", "ect_fashion_mnist"):
        raw = OmegaConf.to_container(config(f"experiment={experiment}", "run_dir=a"))
        keys |= {".".join(path) for path in leaves(raw)}
    raw = OmegaConf.to_container(config("data=image_folder", "data.root=a", "run_dir=a"))
    keys |= {".".join(path) for path in leaves(raw)}
    patterns = list(RULES)
    used = {next((p for p in patterns if fits(k, p)), None) for k in keys}
    assert set(patterns) - used == set()


def fits(key, pattern):
    from fnmatch import fnmatchcase

    return fnmatchcase(key.removesuffix("._target_"), pattern)


def test_nothing_is_left_only_where_the_run_has_ended(tmp_path):
    short, long = config(*BASE, "trainer.max_steps=200"), config(*BASE, "trainer.max_steps=320")
    here = Continuation(200, "run_dir=X")
    assert nothing_left(short, here, tmp_path) is None  # killed before result.json
    (tmp_path / "result.json").write_text(json.dumps({"steps": 100}))
    assert nothing_left(short, here, tmp_path) is None  # of the run before it was extended
    (tmp_path / "result.json").write_text(json.dumps({"steps": 200}))
    assert nothing_left(short, here, tmp_path) == (
        "nothing is left to do: run_dir=X is at step 200 of trainer.max_steps=200; "
        "raise trainer.max_steps to go on"
    )
    assert nothing_left(long, here, tmp_path) is None
    assert nothing_left(config(*BASE, "trainer.max_steps=20"), here, tmp_path) is not None
    assert nothing_left(short, Continuation(), tmp_path) is None


def test_the_value_of_an_ended_run_is_that_of_its_result():
    assert metric_value("1step", {"FD/1step": 3.5}) == 3.5
    assert math.isnan(metric_value("1step", {"FD/1step": None}))
    assert metric_value("1step", {}) is None


# The data


def test_points_are_known_by_sums_that_depend_on_the_order():
    x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
    assert point_sums(x) != pytest.approx(point_sums(x.flip(0)), abs=1e-4)
    one, other = (
        identity_of(Ring(batch_size=2, points=64)),
        identity_of(Ring(batch_size=2, points=64, modes=7)),
    )
    check_identity(one, {**one, "points": [v + 1e-7 for v in one["points"]]}, "run_dir=X")
    with pytest.raises(UserError, match="array of points is not that of run_dir=X: go on with the data"):
        check_identity(one, other, "run_dir=X")


def test_fewer_images_are_noticed():
    one, other = identity_of(Digits(batch_size=2)), identity_of(Digits(batch_size=2, held_out=7))
    with pytest.raises(
        UserError, match=r"number of samples is not that of run_dir=X \(1790 here, 1797 there\)"
    ):
        check_identity(one, other, "run_dir=X")


def test_checkpoints_without_an_identity_are_taken_as_they_are():
    check_identity({}, identity_of(Ring(batch_size=2, points=8)), "run_dir=X")


def folder(path, **colours):
    from PIL import Image

    for name, colour in colours.items():
        (path / name).mkdir(parents=True)
        for i in range(2):
            Image.new("L", (4, 4), colour + i).save(path / name / f"{i}.png")
    return identity_of(ImageFolder(str(path), 4, 1, batch_size=2, conditional=True))


def test_renamed_class_folders_are_noticed(tmp_path):
    one = folder(tmp_path / "a", cats=10, dogs=90)
    assert one["names"] == ["cats", "dogs"]
    check_identity(one, folder(tmp_path / "b", cats=10, dogs=90), "run_dir=X")
    with pytest.raises(UserError, match=r"list of class names is not that .*\['cats', 'hounds'\] here"):
        check_identity(one, folder(tmp_path / "c", cats=10, hounds=90), "run_dir=X")
    with pytest.raises(UserError, match="array of images is not that"):
        check_identity(one, folder(tmp_path / "d", cats=90, dogs=10), "run_dir=X")


# The history


def story(clock, k, earlier=(), **facts):
    from types import SimpleNamespace

    found = History({"batch_size": 10, **facts}, {}, str, clock)
    found.load_state_dict({"segments": list(earlier)})
    trainer = SimpleNamespace(global_step=k, world_size=1)
    module = SimpleNamespace(rate_factor=0.5, group_options=[{"lr": 0.2}], device="cpu")
    found.on_train_start(trainer, module)
    return found, trainer, module


def test_segments_follow_each_other_and_add_up():
    clock = Clock(100.0)
    first = {"steps": [0, 30], "batch_size": 10, "seconds": 100.0}
    found, trainer, module = story(clock, 30, [first], batch_size=20)
    trainer.global_step = 50
    found.on_train_batch_end(trainer, module)
    both = found.segments()
    assert [s["steps"] for s in both] == [[0, 30], [30, 50]]
    assert both[1]["lr"] == 0.1
    assert total_images(both) == 30 * 10 + 20 * 20
    assert 100 <= total_seconds(both) < 101


def test_after_a_rollback_no_step_is_counted_twice_and_no_second_lost():
    clock = Clock()
    found, trainer, module = story(clock, 0)
    trainer.global_step = 40
    found.on_train_batch_end(trainer, module)
    saved = found.state_dict()["segments"]
    clock.since -= 5  # steps that are lost
    again, trainer, module = story(clock, 40, saved)
    trainer.global_step = 60
    again.on_train_batch_end(trainer, module)
    assert [s["steps"] for s in again.segments()] == [[0, 40], [40, 60]]
    assert total_images(again.segments()) == 600
    assert 5 <= total_seconds(again.segments()) < 6


def test_a_start_without_a_step_adds_its_seconds_alone():
    first = {"steps": [0, 30], "batch_size": 10, "seconds": 100.0}
    found, *_ = story(Clock(100.0), 30, [first])
    assert [s["steps"] for s in found.segments()] == [[0, 30]]
    assert total_seconds(found.segments()) >= 100


# The counters


def counters(ready, completed, steps):
    one = {"ready": ready, "started": ready, "processed": ready, "completed": completed}
    nothing = dict.fromkeys(one, 0)
    return {
        "fit_loop": {
            "epoch_loop.batch_progress": {"total": dict(one), "current": dict(one), "is_last_batch": False},
            "epoch_loop.val_loop.batch_progress": {
                "total": nothing,
                "current": nothing,
                "is_last_batch": True,
            },
            "epoch_loop.state_dict": {"_batches_that_stepped": steps},
            "epoch_progress": {"total": nothing, "current": nothing},
        }
    }


def test_a_checkpoint_of_an_older_version_says_by_its_counters_whether_it_was_validated():
    assert was_validated(counters(7, 7, 6))
    assert not was_validated(counters(7, 6, 6))


@pytest.mark.parametrize(
    ("due", "validated", "completed", "begun"),
    [(False, False, 19, 0), (True, True, 20, 0), (True, False, 20, 1)],
)
def test_counters_are_those_of_the_parts_that_a_step_has_now(due, validated, completed, begun):
    loops = counters(10, 9, 9)
    rewrite_counters(loops, 10, 2, due, validated, last=False)
    fit = loops["fit_loop"]
    batches = fit["epoch_loop.batch_progress"]["total"]
    assert (batches["ready"], batches["completed"]) == (20, completed)
    assert fit["epoch_loop.val_loop.batch_progress"]["total"]["started"] == begun
    assert fit["epoch_loop.state_dict"]["_batches_that_stepped"] == 9
    assert not fit["epoch_loop.batch_progress"]["is_last_batch"]
