"""The oracle table: what it says follows from the runs alone, and what it is made of is measured rightly."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from lightning import Trainer
from torch import nn

from consistency.build import build
from consistency.data.loader import Batch
from consistency.errors import UserError
from consistency.lit.callbacks.costs import Costs, Ledger
from consistency.lit.callbacks.evaluation import OracleGap
from consistency.lit.data.digits import Digits
from consistency.metrics.judge import Transport
from consistency.model import maps
from consistency.model.condition import NONE
from consistency.schedule.draws import StepDraws
from consistency.sweep.cases import in_cases, remaining_cases
from consistency.sweep.chart import method_chart
from consistency.sweep.markdown import rows_markdown
from consistency.sweep.oracle import show_oracle
from consistency.sweep.rows import rows
from consistency.sweep.runs import Run, RunState, keep_fault, plan_run, runs_of
from consistency.truth.oracle import Mixture
from tests.conftest import ROOT, SMALL, run
from tests.test_configs import composed, taught

CONFIGS = str(ROOT / "configs")


@pytest.fixture
def hydra():
    with initialize_config_dir(CONFIGS, version_base="1.3"):
        yield


def result(experiment, seed, rmse, **changes):
    metrics = {
        "oracle_rmse": rmse,
        "oracle_rmse_mean": 0.5,
        "SW2/1step": 0.25,
        "SW2/2step": 0.125,
        "SW2/floor": 0.01,
    }
    calls = {"training": {"forward": 2.0, "jvp": 0.0, "teacher": 2.0}, "sampling": {"1step": 1}}
    made = {"experiment": experiment, "seed": seed, "metrics": metrics, "steps": 1000, "images": 128_000}
    made |= {"seconds": 60.4, "memory_mib": 3.25, "calls": calls, "device": "cpu x 1", "commit": "0123456789"}
    return made | changes


def leave(directory, found):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "result.json").write_text(json.dumps(found))


def sweep(directory, *experiments, seeds=(0, 1, 2)):
    """The runs, none begun, and the function that gives run (experiment, seed) a result."""
    runs = [(e, s) for s in seeds for e in experiments]
    for number, (e, s) in enumerate(runs):
        plan_run(directory / str(number), [f"seed={s}", f"experiment={e}", "trainer.max_steps=1000"])
    return lambda e, s, *rest, **changes: leave(
        directory / str(runs.index((e, s))), result(e, s, *rest, **changes)
    )


def cells(text, method):
    """The cells of a method's line, by the head of their column."""
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line
    ]
    (found,) = [line for line in lines if line[0] == method]
    return dict(zip(lines[0], found, strict=True))


class TestTable:
    def test_means_spreads_floor_costs_and_conditions(self, tmp_path):
        ended = sweep(tmp_path, "ict_ring", "cd_ring")
        for seed in range(3):
            ended("ict_ring", seed, 0.01 * (seed + 1))
            ended("cd_ring", seed, 0.5)
        leave(tmp_path / "1" / "teacher", {"seconds": 80.0, "metrics": {}})
        text = rows_markdown(rows(runs_of(tmp_path)))
        assert "## ring" in text
        assert "1,000 optimiser steps of 128 samples on cpu x 1, commit 0123456. " in text
        assert "over seeds 0, 1, 2." in text
        ict = cells(text, "ict")
        assert ict["RMSE at σ_max"] == "0.0200 ± 0.0100"
        assert ict["RMSE, mean over σ"] == "0.5000 ± 0.0000"
        assert (ict["seconds"], ict["teacher's seconds"], ict["MiB per step"]) == ("60 ± 0", "–", "3.2 ± 0.0")
        assert ict["calls per sample"] == "2 + 2 teacher"
        assert cells(text, "cd")["teacher's seconds"] == "80 (1 of 3)"
        floor = cells(text, "floor")
        assert (floor["sliced W2, one step"], floor["sliced W2, two steps"]) == ("0.0100", "0.0100")
        assert floor["RMSE at σ_max"] == ""

    def test_nothing_goes_missing_silently(self, tmp_path):
        ended = sweep(tmp_path, "ict_ring", "cd_ring", "sct_ring")
        ended("ict_ring", 0, 0.1)
        ended("ict_ring", 1, None)  # as result.json has what was not finite
        keep_fault(tmp_path / "1", RunState.FAILED, "teacher.path=x: no\nsuch file")
        (tmp_path / "2" / "checkpoints").mkdir()
        found = rows(runs_of(tmp_path))
        text = rows_markdown(found)
        assert cells(text, "ict (2 of 3)")["RMSE at σ_max"] == "0.1000 (1 of 2)"
        assert cells(text, "cd (0 of 3)")["RMSE at σ_max"] == "–"
        assert "- `ict_ring`, seed 1: not finite: oracle_rmse" in text
        assert "- `ict_ring`, seed 2: not begun" in text
        assert "- `cd_ring`, seed 0: failed: teacher.path=x: no such file" in text
        assert "- `sct_ring`, seed 0: stopped" in text
        first = method_chart(found).axes[0]
        assert [label.get_text() for label in first.get_yticklabels()] == ["ict", "cd", "sct"]
        assert [text.get_text() for text in first.texts] == ["no result", "no result"]
        assert [dot.get_offsets().tolist() for dot in first.collections] == [[[0.1, 0]], [[0.1, 0]]]

    def test_runs_that_differ_in_more_than_the_seed_are_rows_of_their_own(self):
        words = [
            (f"seed={s}", "experiment=cd_ring", f"solver={v}", "x=1") for s in "01" for v in ("euler", "heun")
        ]
        found = rows([Run(Path(str(i)), w) for i, w in enumerate(words)])
        assert [(row.problem, row.method, len(row.runs)) for row in found] == [
            ("ring", "cd solver=euler", 2),
            ("ring", "cd solver=heun", 2),
        ]

    def test_runs_of_other_lengths_show(self, tmp_path):
        ended = sweep(tmp_path, "ict_ring", seeds=(0, 1))
        ended("ict_ring", 0, 0.1)
        ended("ict_ring", 1, 0.1, steps=2000, images=256_000)
        assert "1,000 or 2,000 optimiser steps of 128 samples" in rows_markdown(rows(runs_of(tmp_path)))

    def test_table_and_chart_are_made_again_from_what_is_there(self, tmp_path, capsys):
        sweep(tmp_path, "ict_ring", seeds=(0,))("ict_ring", 0, 0.1)
        show_oracle(tmp_path)
        assert (tmp_path / "oracle.md").read_text() in capsys.readouterr().out
        assert (tmp_path / "oracle.png").stat().st_size > 10_000
        assert {path.name for path in tmp_path.iterdir()} == {"0", "oracle.md", "oracle.png"}


def oracle(*words):
    """The runs of sweep=oracle."""
    config = compose("train", ["sweep=oracle", *words], return_hydra_config=True)
    arguments, sweeper = list(config.hydra.overrides.task), config.hydra.sweeper
    params = [f"{key}={value}" for key, value in sweeper.params.items()]
    parsed = OverridesParser.create().parse_overrides([*params, *arguments])
    (batch,) = BasicSweeper.split_arguments(parsed, None)
    cases = remaining_cases([list(case) for named in sweeper.cases.values() for case in named], arguments)
    return [Run(Path(str(i)), tuple(each)) for i, each in enumerate(in_cases(cases, batch))]


def test_the_runs_are_the_cases_of_the_config_with_every_seed(hydra):
    runs = oracle("seed=5")
    names = [run.recipe for run in runs]
    ring = ["ct", "ict", "ect", "stable", "ct_continuous", "sct", "cd", "cd_continuous", "scd"]
    digits = ["ct", "ict", "ect", "stable", "ct_continuous", "sct", "cd", "scd"]
    assert names == [*(f"{each}_ring" for each in ring), *(f"{each}_digits64" for each in digits)]
    assert {run.seed for run in runs} == {"5"}
    assert all(run.override("sweep") == "oracle" for run in runs)
    assert [(row.method, row.problem) for row in rows(runs)] == [tuple(n.rsplit("_", 1)) for n in names]
    assert len(oracle()) == 3 * len(runs)


def test_an_override_replaces_what_a_case_says_or_the_cases(hydra):
    assert {run.recipe for run in oracle("hydra.sweeper.cases.digits64=[]")} == {
        run.recipe for run in oracle() if run.recipe.endswith("_ring")
    }
    rates = {run.override("optimizer.lr") for run in oracle("optimizer.lr=9e-4")}
    assert rates == {"0.0009"}
    assert {run.overrides.count("optimizer.lr=1e-3") for run in oracle("optimizer.lr=9e-4")} == {0}
    few = oracle("seed=0", "method=ict", "data=ring", "budget=points")
    assert [run.recipe for run in few] == ["ict_ring"]


@pytest.mark.slow
def test_one_command_runs_all_and_leaves_table_and_chart(tmp_path):
    cases = ["[experiment=ict_digits,data=digits64]", "[experiment=sct_ring]"]
    few = [f"hydra.sweeper.cases.ring=[{','.join(cases)}]", "hydra.sweeper.cases.digits64=[]"]
    few += ["seed=0,1", "trainer.max_steps=10", "curriculum.s1=20"]
    swept = run("train.py", tmp_path, "sweep=oracle", *few, *SMALL)
    assert swept.status == 0, swept.err
    text = (tmp_path / "oracle.md").read_text()
    assert text in swept.out
    assert "10 optimiser steps of 32 samples" in text
    assert cells(text.partition("## digits64")[0], "ict")["calls per sample"] == "2"
    assert cells(text.partition("## digits64")[2], "sct")["calls per sample"] == "1 + 1 jvp"
    assert (tmp_path / "oracle.png").stat().st_size > 10_000


class TestFewDigits:
    def test_ten_images_are_one_of_each_class(self):
        data = Digits(batch_size=4, images=10, conditional=True)
        assert data.data.label.sort().values.tolist() == list(range(10))
        assert data.shape == (1, 8, 8)

    def test_the_density_is_that_of_the_images(self):
        data = Digits(batch_size=4, images=10)
        x = data.codec.encode(data.data.x)
        near = data.density.denoise(x + 0.01, torch.full((10,), 0.01, dtype=torch.float64))
        assert torch.allclose(near, x, atol=1e-6)
        far = data.density.denoise(x, torch.full((10,), 1e4, dtype=torch.float64))
        assert torch.allclose(far, x.mean(0).expand_as(x), atol=1e-4)

    def test_all_of_them_are_not_a_known_density(self):
        data = Digits(batch_size=4)
        assert data.density is None
        assert len(data.data) == 1797

    @pytest.mark.parametrize("images", [0, 1798])
    def test_a_number_out_of_range_is_refused(self, images):
        with pytest.raises(UserError, match=rf"data\.images={images} must lie between 1 and 1797"):
            Digits(batch_size=4, images=images)


class TestOracleGap:
    def gap(self, density, f, **args):
        """What is logged of a denoiser f."""
        logged = {}
        module = SimpleNamespace(
            device="cpu",
            paced_one_time=lambda: f,
            exact=lambda density, x, sigma: density.consistency(x, sigma),
            log=lambda name, value, **_: logged.update({name: value}),
        )
        trainer = SimpleNamespace(datamodule=SimpleNamespace(density=density))
        OracleGap([80.0], **args).on_validation_epoch_end(trainer, module)
        return logged

    def test_an_exact_f_of_few_digits_is_at_no_distance(self):
        density = Digits(batch_size=4, images=10).density
        logged = self.gap(
            density, lambda x, sigma: density.consistency(x.double(), sigma), points=16, levels=8
        )
        assert logged.keys() == {"oracle_rmse", "oracle_rmse_mean"}
        assert max(logged.values()) < 1e-5

    def test_the_mean_is_taken_of_each_levels_rmse(self):
        density = Mixture.gaussian(0.5)
        levels = torch.logspace(-2, 2, 5, dtype=torch.float64)  # 0.01, 0.1, 1, 10, 100

        def f(x, sigma):
            return (
                density.consistency(x.double(), sigma)
                + 0.1 * (sigma >= 5)[:, None]
                + 0.2 * (sigma > 50)[:, None]
            )

        logged = self.gap(density, f, points=50, lowest=0.01, highest=100.0, levels=len(levels))
        assert logged["oracle_rmse"] == pytest.approx(0.3, abs=1e-5)  # at 80
        assert logged["oracle_rmse_mean"] == pytest.approx((0.1 + 0.3) / 5, abs=1e-5)  # not of squares

    def test_more_levels_than_points_are_refused(self):
        with pytest.raises(UserError, match=r"callbacks\.oracle\.levels=9"):
            OracleGap([80.0], points=8, levels=9)


class TestTransportOfImages:
    def judged(self, real, samples):
        judge = Transport()
        judge.begin(real, torch.device("cpu"))
        judge.update("made", samples)
        return judge.compute()

    def test_units_are_those_in_which_the_data_have_a_half(self):
        real = torch.randint(
            0, 200, (16, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )
        moved = self.judged(real, real + 10)["SW2/made"]
        assert moved == pytest.approx(10 * 0.5 / real.double().std(correction=0).item())

    def test_a_finite_set_is_met_by_as_many_of_each_and_nearly_by_draws_from_it(self):
        real = Digits(batch_size=4, images=10).data.x
        found = self.judged(real, real.repeat(40, 1, 1, 1))
        assert found["SW2/made"] == pytest.approx(0, abs=1e-9)
        assert 0 < found["SW2/floor"] < 0.1
        assert self.judged(real, real.repeat(400, 1, 1, 1))["SW2/floor"] < found["SW2/floor"]


class Watched:
    """A module with its data and what watches it, stepped as a trainer would."""

    def __init__(self, *overrides):
        self.data, module = build(composed(*overrides, "net.width=16", "net.blocks=1"))
        self.module = taught(module, self.data)
        self.optimizer = torch.optim.Adam(self.module.parameters())
        self.costs, self.trainer = Costs(), SimpleNamespace(global_step=0)
        self.costs.on_train_start(self.trainer, self.module)

    def step(self, parts=1):
        for part in range(parts):
            batch = self.data.on_after_batch_transfer(Batch(self.data.real()[:4], None), 0)
            self.costs.on_train_batch_start(self.trainer, self.module, batch, part)
            self.module.terms(batch.x, NONE, 0, StepDraws(0)).loss.mean().backward()
            if part == parts - 1:
                self.optimizer.step()
                self.trainer.global_step += 1
            self.costs.on_train_batch_end(self.trainer, self.module, None, batch, part)


@pytest.mark.usefixtures("hydra")
class TestCalls:
    @pytest.mark.parametrize(
        ("overrides", "forward", "jvp", "teacher"),
        [
            (
                ["method=ct", "data=ring", "budget=points"],
                2,
                0,
                0,
            ),  # the target is an average: another network
            (["experiment=ict_digits"], 2, 0, 0),
            (["experiment=cd_digits"], 2, 0, 2),
            (["experiment=cd_digits", "solver=euler"], 2, 0, 1),
            (["experiment=cd_digits", "flow.substeps=3"], 2, 0, 6),
            (["experiment=edm_digits"], 1, 0, 0),
            (["experiment=sct_ring"], 1, 1, 0),
        ],
    )
    def test_of_a_training_step(self, overrides, forward, jvp, teacher):
        watched = Watched(*overrides)
        watched.step()
        assert watched.costs.calls is None
        watched.step()
        watched.step()
        assert watched.costs.calls == {"forward": forward, "jvp": jvp, "teacher": teacher}

    def test_a_step_of_several_batches_counts_per_sample(self):
        watched = Watched("experiment=ict_digits")
        watched.step(parts=2)
        watched.step(parts=2)
        assert watched.costs.calls == {"forward": 2, "jvp": 0, "teacher": 0}

    def test_after_an_exception_nobody_watches(self):
        watched = Watched("experiment=ict_digits")
        watched.step()
        before = list(maps._notes)
        watched.costs.on_train_batch_start(
            watched.trainer, watched.module, SimpleNamespace(x=torch.zeros(4)), 0
        )
        assert len(maps._notes) == len(before) + 1
        watched.costs.on_exception(watched.trainer, watched.module, ValueError())
        assert maps._notes == before

    def test_of_samplers_are_those_in_their_names(self):
        _, module = build(composed("experiment=edm_digits"))
        found = {name: sampler.nfe for name, sampler in module.samplers.items()}
        assert found == {"heun35": 35, "euler18": 18, "ddim18": 18}
        _, module = build(composed("experiment=cd_ring"))
        assert {name: sampler.nfe for name, sampler in module.samplers.items()} == {
            "1step": 1,
            "2step": 2,
            "4step": 4,
        }

    @pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*sync_dist.*")
    def test_watching_changes_no_number(self, tmp_path):
        def trained(*callbacks):
            data, module = build(
                composed("experiment=sct_digits", "start=scratch", "net.width=16", "net.dropout=0.5")
            )
            options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
            options |= {"enable_model_summary": False, "limit_val_batches": 0, "default_root_dir": tmp_path}
            trainer = Trainer(accelerator="cpu", max_steps=4, callbacks=list(callbacks), **options)
            trainer.fit(module, datamodule=data)
            return nn.utils.parameters_to_vector(module.parameters())

        costs = Costs()
        assert torch.equal(trained(costs), trained())
        assert costs.calls == {"forward": 1, "jvp": 1, "teacher": 0}
        assert costs.memory_mib > 0


class TestMemory:
    def test_the_peak_is_of_what_is_alive_together(self):
        with Ledger() as ledger:
            a = torch.zeros(256)  # 1 KiB each
            b = a + 1
            del a
            c = b + 1
            del b
            c.sum()
        assert ledger.peak == 2048

    def test_views_are_counted_once_and_what_was_there_before_when_it_is_used(self):
        weight = torch.zeros(16, 16)
        with Ledger() as ledger:
            weight.t().reshape(4, 64).T.add_(1)
        assert ledger.peak == 2 * 1024  # the reshape copies

    def test_an_adam_step_needs_weights_gradients_and_two_moments(self):
        weight = nn.Parameter(torch.ones(1024))
        optimizer = torch.optim.SGD([weight], momentum=0.9)
        for _ in range(2):
            weight.grad = torch.ones(1024)
            with Ledger() as ledger:
                optimizer.step()
        assert ledger.peak == 3 * 4096  # weights, gradients and velocity
