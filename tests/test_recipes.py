"""A method on data is a combination: what it composes, what its runs are called, what old names are now."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from consistency.build import experiment_name
from consistency.continuation import compare_with_checkpoint
from consistency.continuation.again import command_of
from consistency.errors import UserError
from consistency.files.configs import options
from consistency.schema.check import check_composed
from consistency.schema.recipes import BUDGETS, WRITTEN, method_and_data, overrides_of, without_file
from consistency.sweep.cases import in_cases, remaining_cases
from consistency.tasks.show.variation import config_changes
from consistency.teach import compose_teacher as first_run
from tests.conftest import ROOT
from tests.test_swaps import composed as composed_with_lines

METHODS = sorted(options("method"))
PAIRS = [(method, sorted(BUDGETS)[i % len(BUDGETS)]) for i, method in enumerate(METHODS)]


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield


def composed(*overrides):
    """A checked config, while Hydra knows its command."""
    config, _ = composed_with_lines(*overrides)
    check_composed(config, "train")
    return config


@pytest.mark.parametrize(("method", "data"), PAIRS)
def test_every_method_composes_with_the_budget_of_some_data(method, data):
    config = composed(f"method={method}", f"data={data}", f"budget={BUDGETS[data]}")
    assert experiment_name() == f"{method}_{data}"
    small = {"points": (128, 8000, 3e-3), "minute": (256, 6000, 2e-3), "half_hour": (32, 5000, 5e-4)}
    size = config.net.get("width") or config.net.channels
    assert (size, config.trainer.max_steps, config.optimizer.lr) == small[BUDGETS[data]]


@pytest.mark.parametrize("name", sorted(WRITTEN))
def test_a_name_of_an_older_version_is_a_command_that_is_sound(name):
    composed(*overrides_of(name))
    assert name not in options("experiment")
    assert str(without_file(name)).endswith(f": write {WRITTEN[name]}")


def test_every_recipe_is_more_than_a_method_on_data():
    for name in options("experiment"):
        method, data = method_and_data(name)
        if method is None:
            continue
        plain = OmegaConf.to_container(
            composed(f"method={method}", f"data={data}", f"budget={BUDGETS[data]}")
        )
        assert OmegaConf.to_container(composed(f"experiment={name}")) != plain, name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ict_digits", "experiment=ict_digits"),
        ("ct_continuous_moons", "method=ct_continuous data=moons budget=points"),
        ("edm_digits64", "experiment=edm_digits data=digits64 trainer.max_steps=3000"),
        ("of_mine", "experiment=of_mine"),
        ("_ring", "experiment=_ring"),
        ("a,b", "experiment=a,b"),
    ],
)
def test_what_a_name_stands_for(name, expected):
    assert overrides_of(name) == expected.split()


def test_a_budget_gives_an_experiment_another_size():
    config = composed("experiment=flow_digits", "data=ring", "budget=points")
    assert (config.precond.time_scale, config.net.width, config.optimizer.lr) == (4.0, 128, 3e-3)
    assert experiment_name() == "flow_digits"


def test_the_metric_of_the_ring_is_that_of_its_data():
    assert composed("method=ict", "data=ring", "budget=points").optimized_metric == "oracle_rmse"
    assert composed("method=ict", "data=moons", "budget=points").optimized_metric == "1step"


def test_directories_are_named_by_experiment_or_by_method_and_data():
    for words, name in (
        (["experiment=ict_digits", "data=ring"], "ict_digits"),
        ([*overrides_of("ect_moons")], "ect_moons"),
    ):
        config = compose("train", words, return_hydra_config=True)
        assert config.hydra.run.dir.startswith(f"runs/{name}/")


@pytest.mark.parametrize("name", ["ict_ring", "ict_digits64", "stable_ring"])
def test_a_run_of_an_older_version_goes_on_with_the_command_of_today(name):
    config = composed(*overrides_of(name))
    there = {"config": OmegaConf.to_container(config, resolve=True), "experiment": name, "global_step": 5}
    assert compare_with_checkpoint(config, experiment_name(), there, "run_dir=x", []).step == 5
    other = composed("experiment=ict_digits", "net.width=8")
    with pytest.raises(UserError, match=f"give {' '.join(overrides_of(name))} to go on"):
        compare_with_checkpoint(other, experiment_name(), there, "run_dir=x", [])


def test_the_command_that_goes_on_with_a_run_of_an_older_version_is_of_today(tmp_path):
    (tmp_path / "result.json").write_text('{"overrides": ["experiment=ict_ring", "seed=1"]}')
    line = command_of(tmp_path, ["experiment=ict_digits", "ckpt_path=last"])
    assert line == "python train.py method=ict data=ring budget=points seed=1 ckpt_path=last"


def test_a_report_knows_what_a_run_of_an_older_version_is_a_variation_of():
    config = composed(*overrides_of("ict_ring"), "optimizer.lr=1e-4")
    table = config_changes("ict_ring", OmegaConf.to_container(config, resolve=True))
    assert [row[:3] for row in table.rows] == [["optimizer.lr", "0.003", "0.0001"]]


def test_a_teacher_is_named_as_its_runs_are(tmp_path):
    composed(*overrides_of("cd_moons"), "net.width=16", "hydra.run.dir=nowhere")
    words = ["data=moons", "net.width=16", "trainer.max_steps=7"]
    with first_run("edm_moons", tmp_path / "teacher", words) as config:
        assert experiment_name() == "edm_moons"
        assert (config.net.width, config.trainer.max_steps, config.optimizer.lr) == (16, 7, 3e-3)
        assert config.objective._target_.endswith("Denoising")
    assert experiment_name() == "cd_moons"


def test_cases_give_way_to_what_the_command_line_says():
    cases = [["experiment=ect_ring", "flow.size=2"], ["method=ct", "data=ring"]]
    assert remaining_cases(cases, ["seed=1", "++flow.size=3"]) == [
        ["experiment=ect_ring"],
        ["method=ct", "data=ring"],
    ]
    for key in ("experiment", "method", "data", "budget"):
        assert remaining_cases(cases, [f"{key}=x"]) == []
    assert in_cases(cases, [["seed=0"]]) == [[*case, "seed=0"] for case in cases]
    assert in_cases([], [["seed=0"]]) == [["seed=0"]]
