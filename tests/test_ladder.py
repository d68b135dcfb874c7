"""σ lists by trying: the best that was tried, whatever the cost; kept for the weights they suit."""

from dataclasses import replace
from functools import partial
from itertools import combinations, count
from types import SimpleNamespace

import pytest
import torch

from consistency import watch
from consistency.errors import UserError
from consistency.model.maps import Consistency
from consistency.sampling.families import Family, families_of, samplers_of_lists
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.ode import DPMSolver, Euler, Heun
from consistency.sampling.samplers import Jumps, MultiStep, OneStep
from consistency.sampling.search import CostMemo, search_levels, widened
from consistency.schedule.sigma import Sigma
from consistency.tasks import schedules, timing
from consistency.tasks.measure.ladder import Ladder
from consistency.tasks.measure.ladder_lists import (
    Search,
    level_counts_for,
    run_levels,
    samplers_of_other_calls,
    series_name,
    spaced_samplers,
)
from consistency.tasks.schedule_file import SigmaList, read_lists
from consistency.tasks.schedules import chosen_samplers
from tests.sessions import checkpoint, session

SIZE = 40
BEST = {2: (0, 17), 3: (0, 11, 29), 4: (0, 8, 19, 31)}
FEW = Search(levels=12, budget=5, scan=2, count=40)
SMALL = Ladder(calls=(1, 2, 3), count=50, batch=25, search=FEW, largest=4, patience=0.01)


def lists_of(ckpt, trained):
    """What is kept for the weights of a checkpoint."""
    return (read_lists(schedules.schedule_path(ckpt), "") or {})[trained.provenance.weights_sha256]


def bowl(levels):
    return sum((a - b) ** 2 for a, b in zip(levels, BEST[len(levels)], strict=True))


class TestSearch:
    def test_one_valley_is_found(self):
        assert search_levels(bowl, SIZE, [2, 3, 4], budget=80) == BEST

    @pytest.mark.parametrize("deep", [3, 17, 36])
    def test_the_deeper_of_two_valleys_is_found(self, deep):
        shallow = (deep + 20) % SIZE
        cost = {i: min(abs(i - deep), 2 + abs(i - shallow)) for i in range(SIZE)}
        assert search_levels(lambda levels: cost[levels[1]], SIZE, [2], budget=SIZE) == {2: (0, deep)}

    def test_the_answer_is_the_best_that_was_tried_however_rough_the_cost(self):
        """No assumption about the cost: noise, of which any valley is a lie."""
        generator = torch.Generator().manual_seed(0)
        noise = {pair: torch.rand((), generator=generator).item() for pair in combinations(range(SIZE), 3)}
        tried = {}

        def cost(levels):
            assert levels not in tried  # each is asked for once
            tried[levels] = noise.get(levels, 1.0)
            return tried[levels]

        found = search_levels(cost, SIZE, [3], budget=25)
        assert tried[found[3]] == min(tried.values())
        assert len(tried) <= 25

    @pytest.mark.parametrize("budget", [1, 2, 7])
    def test_the_budget_is_kept_for_each_number_of_levels(self, budget):
        tried = []
        search_levels(lambda levels: tried.append(levels) or float(len(tried)), SIZE, [2, 3, 4], budget)
        assert all(sum(len(levels) == n for levels in tried) <= budget for n in (2, 3, 4))
        assert {len(levels) for levels in tried} == {2, 3, 4}

    def test_a_stopped_search_ends_as_one_that_was_not(self):
        """Costs are kept elsewhere: the second search asks for the same lists in the same order."""
        kept, asked = {}, []

        def stopping(levels, after=None):
            if levels not in kept:
                if len(kept) == after:
                    raise KeyboardInterrupt
                kept[levels] = bowl(levels)
                asked.append(levels)
            return kept[levels]

        with pytest.raises(KeyboardInterrupt):
            search_levels(partial(stopping, after=9), SIZE, [2, 3, 4], 20)
        assert len(asked) == 9
        straight = []
        expected = search_levels(lambda levels: straight.append(levels) or bowl(levels), SIZE, [2, 3, 4], 20)
        assert search_levels(stopping, SIZE, [2, 3, 4], 20) == expected
        assert asked == straight

    def test_known_lists_are_tried_first_and_never_made_worse(self):
        known = {2: (0, 33)}
        assert search_levels(lambda levels: abs(levels[1] - 33), SIZE, [2], 1, known=known) == known
        assert search_levels(lambda levels: abs(levels[1] - 33), SIZE, [2], 1) != known

    def test_lists_grow_in_their_widest_gap(self):
        assert widened((0,), 2, 40) == (0, 20)
        assert widened((0, 20), 4, 40) == (0, 10, 20, 30)
        assert widened((0, 30), 3, 40) == (0, 15, 30)
        assert widened((0,), 8, 8) == tuple(range(8))

    def test_a_trial_is_not_repeated(self):
        calls = []
        trials = CostMemo(lambda levels: calls.append(levels) or 1.0, budget=2)
        assert trials((0, 1)) == trials((0, 1)) == 1.0
        assert calls == [(0, 1)]
        assert trials.best == (0, 1)


class TestSchedules:
    def test_lists_are_for_the_weights_they_were_found_for(self, tmp_path, capsys):
        ckpt = tmp_path / "last.ckpt"
        own = {"1step": OneStep([80.0])}
        assert schedules.read_found_samplers(ckpt, "a", own, 0.002) == {}
        assert (
            schedules.keep_lists(ckpt, "a", {"2step": SigmaList([80.0, 0.5])})
            == tmp_path / "last.schedule.json"
        )
        assert schedules.read_found_samplers(ckpt, "a", own, 0.002) == {"2step": MultiStep([80.0, 0.5])}
        assert schedules.read_found_samplers(ckpt, "b", own, 0.002) == {}
        assert "other weights" in capsys.readouterr().err

    def test_a_damaged_file_is_named(self, tmp_path):
        for text in ("{", "[]", '{"weights_sha256": "a", "sigmas": {"two": [1]}}'):
            (tmp_path / "last.schedule.json").write_text(text)
            with pytest.raises(UserError, match=r"last\.schedule\.json is damaged.*found=false"):
                schedules.read_found_samplers(tmp_path / "last.ckpt", "a", {}, 0.002)

    def test_the_runs_own_lists_lie_on_the_grid(self):
        grid = [80.0, 8.0, 0.8, 0.08]
        recipes = {
            "2step": MultiStep([80.0, 0.821]),
            "odd": MultiStep([7.0, 1]),
        }
        assert run_levels(recipes.values(), grid) == {2: (0, 2)}


class TestTask:
    def test_students_get_a_rung_per_number_of_calls(self, tmp_path, ckpt):
        outcome = SMALL(session(tmp_path, ckpt))
        names = ["1step", "2step-found", "3step"]  # the run has another list of two steps, and none of three
        assert outcome.metrics.keys() == {f"FD(digits)/{name}" for name in names}
        cards = {number["name"]: number["card"]["protocol"] for number in outcome.numbers}
        assert [cards[name]["nfe"] for name in names] == [1, 2, 3]
        for number in outcome.numbers:
            assert number["speed"]["latency"] > 0
            assert 1 <= number["speed"]["batch"] <= 4
        first, *_ = outcome.tables
        assert [row[0] for row in first.rows] == [*names, "floor"]
        for kind in ("md", "png"):
            assert (tmp_path / f"ladder.{kind}").stat().st_size > 100

    def test_what_was_found_is_what_samples_are_made_with(self, tmp_path, ckpt):
        outcome = SMALL(session(tmp_path, ckpt))
        later = session(tmp_path, ckpt, overrides=["found=true"]).trained
        kept = lists_of(ckpt, later)
        found = {n["name"].removesuffix("-found"): n["card"]["protocol"]["sigmas"] for n in outcome.numbers}
        assert {f"{n}step": kept[f"{n}step"].sigmas for n in (1, 2, 3)} == found
        assert later.samplers.keys() == {"1step", "2step"}  # the run's own names
        assert list(later.samplers["2step"].sigmas) == found["2step"]
        assert list(chosen_samplers(later, ["3step"])["3step"].sigmas) == found["3step"]

    def test_an_interrupted_search_goes_on(self, tmp_path, ckpt, monkeypatch):
        calls = []
        forward = Consistency.forward

        def counted(self, *args, stop=None, **more):
            calls.append(1)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return forward(self, *args, **more)

        ladder = replace(SMALL, search=replace(FEW, seed=7), keep=False)
        with monkeypatch.context() as patch:
            patch.setattr(Consistency, "forward", lambda *a, **k: counted(*a, stop=30, **k))
            with pytest.raises(KeyboardInterrupt):
                ladder(session(tmp_path, ckpt, tmp_path / "cache"))
        known = len(list((tmp_path / "cache").glob("*.json")))
        assert known > 3
        with monkeypatch.context() as patch:
            patch.setattr(Consistency, "forward", lambda *a, **k: counted(*a, **k))
            calls.clear()
            resumed = ladder(session(tmp_path, ckpt, tmp_path / "cache"))
            with_memo = len(calls)
            calls.clear()
            straight = ladder(session(tmp_path, ckpt, tmp_path / "other"))
            assert with_memo < len(calls)
            calls.clear()
            again = ladder(session(tmp_path, ckpt, tmp_path / "other"))
            assert calls == []  # nothing is computed twice
        assert resumed.metrics == straight.metrics == again.metrics

    def test_without_a_search_levels_are_even(self, tmp_path, ckpt):
        ladder = replace(SMALL, search=None, calls=(2, 4))
        found = ladder(session(tmp_path, ckpt)).numbers
        assert [len(number["card"]["protocol"]["sigmas"]) for number in found] == [2, 4]

    def test_the_teacher_stands_beside_its_student(self, tmp_path):
        words = ["experiment=cd_ring", "net.width=32", "net.blocks=1", "data.samples=64"]
        student = checkpoint(tmp_path, *words)
        outcome = SMALL(session(tmp_path / "out", student))
        names = {name.removeprefix("SW2/") for name in outcome.metrics}
        ours, theirs = {"1step", "2step-found", "3step"}, {"teacher heun3", "teacher heun35"}
        assert names == ours | theirs  # the solver that the student follows
        hashes = {n["name"]: n["card"]["model"]["weights_sha256"] for n in outcome.numbers}
        assert len({hashes["1step"], hashes["teacher heun35"]}) == 2
        assert outcome.metrics["SW2/teacher heun35"] < outcome.metrics["SW2/1step"]  # exact against untrained
        assert not any(
            "teacher" in m for m in replace(SMALL, teacher=False)(session(tmp_path, student)).metrics
        )

    def test_the_families_of_a_teachers_own_samplers_are_measured_and_searched(self, tmp_path):
        words = [
            "method=edm",
            "data=ring",
            "budget=points",
            "net.width=32",
            "net.blocks=1",
            "samplers.ddim18=null",
        ]
        teacher = checkpoint(tmp_path, *words, "+samplers.heun35.s_churn=5")
        outcome = replace(SMALL, search=replace(FEW, budget=2))(session(tmp_path / "out", teacher))
        names = {name.removeprefix("SW2/") for name in outcome.metrics}
        assert names == {
            "euler2",
            "euler3",
            "heun3",
            "heun35",
            "euler18",
        }  # no call alone; own ones as they are
        cards = {number["name"]: number["card"]["protocol"] for number in outcome.numbers}
        assert all(cards[name]["s_churn"] == 5 for name in ("heun3", "heun35"))
        again = session(tmp_path / "again", teacher, overrides=["found=true"]).trained
        assert {"euler2", "euler3", "heun3"} == again.found.keys()
        assert chosen_samplers(again, ["heun3"])["heun3"].s_churn == 5
        assert list(again.found["heun3"].sigmas) == cards["heun3"]["sigmas"]

    def test_without_a_search_a_teachers_levels_are_karras(self, tmp_path):
        teacher = checkpoint(
            tmp_path, "method=edm", "data=ring", "budget=points", "net.width=32", "net.blocks=1"
        )
        outcome = replace(SMALL, search=None)(session(tmp_path / "out", teacher))
        cards = {number["name"]: number["card"]["protocol"] for number in outcome.numbers}
        assert cards["heun3"]["sigmas"] == karras_sigmas(2)
        assert not teacher.with_suffix(".schedule.json").exists()

    def test_calls_that_cannot_be_are_refused(self, tmp_path, ckpt):
        for calls in ((), (0,), (13,)):
            with pytest.raises(UserError, match=r"task\.calls"):
                replace(SMALL, calls=calls)(session(tmp_path, ckpt))

    @pytest.mark.parametrize(("step", "said"), [(0.0, 0), (3.0, 1)])
    def test_a_long_search_says_once_what_makes_it_less(
        self, tmp_path, ckpt, monkeypatch, capsys, step, said
    ):
        times = count(step=step)
        monkeypatch.setattr(watch, "LONG", 10.0)
        monkeypatch.setattr(watch, "time", SimpleNamespace(monotonic=lambda: next(times)))
        replace(SMALL, keep=False)(session(tmp_path, ckpt))
        remedy = "task.search.count, task.search.budget and task.calls make it less\n"
        assert capsys.readouterr().err.count(remedy) == said


HEUN, CHURNED = Heun([80.0, 1.0]), Heun([80.0, 1.0], s_churn=4)


class TestFamilies:
    def test_samplers_of_a_family_differ_in_their_levels_alone(self):
        own = {
            "1step": OneStep([80.0]),
            "2step": MultiStep([80.0, 1.0], sigma_min=0.01),
            "4step": MultiStep([80.0, 9.0, 3.0, 1.0], sigma_min=0.01),
            "heun3": HEUN,
            "churned": CHURNED,
            "heun1": Heun([80.0]),
        }
        found = families_of(own, 0.002)
        assert found == [Family(own["2step"]), Family(HEUN), Family(CHURNED, " (churned)")]
        assert [each.title(each.like) for each in found] == ["2step", "heun3", "heun3 (churned)"]
        assert [series_name(each) for each in found] == [
            "student",
            "teacher, heun",
            "teacher, heun (churned)",
        ]
        assert families_of({"1step": OneStep([80.0])}, 0.002) == [Family(MultiStep([80.0]))]
        clipped = families_of({"2step": own["2step"], "clipped": OneStep([80.0], clip=True)}, 0.002)
        assert clipped == [Family(own["2step"]), Family(MultiStep([80.0], clip=True), " (clipped)")]

    def test_lists_are_for_the_samplers_whose_names_they_have(self):
        own = {"heun3": HEUN, "churned": CHURNED, "1step": OneStep([80.0])}
        lists = {
            "heun3": [80.0, 2.0], "heun5 (churned)": [80.0, 2.0, 1.0], "churned": [70.0, 1.0],
            "3step": [80.0, 2.0, 1.0], "1step": [70.0], "4step": [80.0], "euler2": [80.0, 1.0],
        }  # fmt: skip
        assert samplers_of_lists(lists, own, 0.002) == {
            "heun3": HEUN.with_sigmas([80.0, 2.0]),
            "heun5 (churned)": CHURNED.with_sigmas([80.0, 2.0, 1.0]),
            "churned": CHURNED.with_sigmas([70.0, 1.0]),
            "3step": MultiStep([80.0, 2.0, 1.0]),
            "1step": MultiStep([70.0]),
        }  # neither a list of another length nor a family that the run has not

    def test_solvers_take_as_many_calls_as_their_names_say(self):
        calls, sigma = [1, 2, 3, 4, 8, 35], Sigma()
        for family in (Family(HEUN), Family(Euler([1.0])), Family(Jumps([1.0])), Family(DPMSolver([1.0]))):
            made = spaced_samplers(family, calls, sigma)
            assert len(made) == len(level_counts_for(family, calls))
            for name, sampler in made.items():
                seen = []
                sampler(lambda x, *rest, seen=seen: seen.append(1) or x, torch.zeros(1, 2))
                assert len(seen) in calls
                assert name == family.title(sampler)
                assert str(len(seen)) in name
        assert level_counts_for(Family(HEUN), calls) == [2, 18]
        assert level_counts_for(Family(Jumps([1.0])), [1, 2]) == [1, 2]
        assert samplers_of_other_calls(
            Family(HEUN), {"a": HEUN, "b": Heun([80.0]), "c": CHURNED}, [1, 2], 0.002
        ) == {"a": HEUN}


class TestTiming:
    def test_the_best_batch_is_the_one_of_most_images_a_second(self, monkeypatch):
        clock = {"now": 0.0}
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])

        def run(n):  # pays up to 8, then as the batch
            clock["now"] += 1.0 if n <= 8 else n / 4

        cpu = torch.device("cpu")
        assert timing.best_batch(run, cpu, most=64, at_most=100.0) == 8
        assert timing.best_batch(run, cpu, most=4, at_most=100.0) == 4
        assert timing.median_seconds(lambda: run(16), cpu, repeats=3, at_most=100.0) == 4.0

    def test_memory_that_ends_ends_the_doubling(self):
        def run(n):
            if n > 4:
                raise torch.OutOfMemoryError("no more")

        assert timing.best_batch(run, torch.device("cpu"), most=64, at_most=10.0) <= 4
