"""σ lists beside a checkpoint: by weights and sampler, merged, and never exchanged in silence."""

import json
import multiprocessing
from dataclasses import replace

import pytest

from consistency.errors import UserError
from consistency.export.model import Outgoing
from consistency.export.web.description import offered
from consistency.export.weights import Safetensors
from consistency.files.checksum import content_sha256
from consistency.sampling.samplers import OneStep
from consistency.tasks import schedules
from consistency.tasks.measure.fidelity import Fidelity
from consistency.tasks.measure.ladder import Ladder, Search
from consistency.tasks.schedule_file import MOST, Origin, SigmaList, locked, read_lists
from consistency.tasks.schedules import chosen_samplers
from consistency.tasks.show.report import Report
from tests.sessions import Watched, checkpoint
from tests.sessions import session as session_of

OWN = {"1step": OneStep([80.0])}  # samplers of a run
GOOD = Origin("FD(digits)", 5.0, count=2000, seed=1, budget=30)
WORSE = GOOD._replace(value=6.0, budget=5)
FEW = Search(levels=12, budget=3, scan=2, count=20)
SMALL = Ladder(calls=(1, 2, 4), count=20, batch=20, search=FEW, largest=1, patience=0.001)


def session(directory, ckpt, found=True):
    """A session that takes up the lists that were found."""
    return session_of(directory, ckpt, overrides=[f"found={found}"])


@pytest.fixture
def own(tmp_path):
    """A checkpoint whose lists are this test's alone."""
    return checkpoint(tmp_path / "run")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "last.ckpt"


def sigmas(ckpt, weights="a"):
    """What is kept for these weights, by sampler."""
    return {
        n: each.sigmas
        for n, each in (read_lists(schedules.schedule_path(ckpt), "") or {}).get(weights, {}).items()
    }


def write(ckpt, kept):
    schedules.schedule_path(ckpt).write_text(json.dumps({**kept, "sha256": content_sha256(kept)}))


class TestFile:
    def test_other_numbers_of_calls_and_other_weights_stay(self, path):
        schedules.keep_lists(
            path, "a", {"1step": SigmaList([80.0], GOOD), "4step": SigmaList([80.0, 9.0, 3.0, 1.0], GOOD)}
        )
        schedules.keep_lists(path, "b", {"2step": SigmaList([80.0, 0.7], GOOD)})
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 0.5], GOOD)})
        assert sigmas(path) == {"1step": [80.0], "2step": [80.0, 0.5], "4step": [80.0, 9.0, 3.0, 1.0]}
        assert sigmas(path, "b") == {"2step": [80.0, 0.7]}
        assert read_lists(schedules.schedule_path(path), "")["b"]["2step"].origin == GOOD
        assert schedules.read_found_samplers(path, "a", OWN, 0.002).keys() == {"1step", "2step", "4step"}

    def test_of_two_lists_judged_alike_the_better_stays(self, path, capsys):
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 1.0], WORSE)})
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 0.5], GOOD)})
        assert sigmas(path) == {"2step": [80.0, 0.5]}
        assert capsys.readouterr().err == ""
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 1.0], WORSE)})
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 0.5], GOOD._replace(budget=1))})
        assert read_lists(schedules.schedule_path(path), "")["a"] == {"2step": SigmaList([80.0, 0.5], GOOD)}
        (line,) = capsys.readouterr().err.splitlines()
        assert "the list of 2step with FD(digits) 5 of 2,000 samples stays, no worse than the new" in line

    @pytest.mark.parametrize("change", [{"metric": "SW2"}, {"count": 100}, {"seed": 2}])
    def test_a_list_judged_otherwise_is_replaced_with_a_line(self, path, change, capsys):
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 0.5], GOOD)})
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 1.0], WORSE._replace(**change))})
        assert sigmas(path) == {"2step": [80.0, 1.0]}
        assert "list of 2step with FD(digits) 5 of 2,000 samples is replaced" in capsys.readouterr().err

    def test_the_former_format_is_read_and_taken_over(self, path, capsys):
        lists = {"1": [80.0], "2": [80.0, 0.5]}
        write(path, {"weights_sha256": "a", "sigmas": lists})
        assert schedules.read_found_samplers(path, "a", OWN, 0.002)["2step"].sigmas == (80.0, 0.5)
        schedules.keep_lists(path, "b", {"1step": SigmaList([70.0], GOOD)})
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 1.0], WORSE)})
        assert sigmas(path) == {"1step": [80.0], "2step": [80.0, 1.0]}
        assert "of 2step with a value that is not known is replaced by" in capsys.readouterr().err

    def test_the_lists_of_so_many_weights_are_kept(self, path, capsys):
        for i in range(MOST):
            schedules.keep_lists(path, f"{i}", {"1step": SigmaList([80.0], GOOD)})
        schedules.keep_lists(path, "0", {"2step": SigmaList([80.0, 0.5], GOOD)})  # now the newest
        assert capsys.readouterr().err == ""
        schedules.keep_lists(path, "new", {"1step": SigmaList([80.0], GOOD)})
        assert list(read_lists(schedules.schedule_path(path), "")) == [*map(str, range(2, MOST)), "0", "new"]
        assert "keeps the lists of 16 weights; those of the oldest 1 were removed" in capsys.readouterr().err

    def test_a_list_without_a_finite_value_is_not_kept(self, path):
        schedules.keep_lists(path, "a", {"2step": SigmaList([80.0, 0.5], GOOD)})
        schedules.keep_lists(
            path, "a", {"2step": SigmaList([80.0, 1.0], GOOD._replace(value=float("nan"), seed=3))}
        )
        assert sigmas(path) == {"2step": [80.0, 0.5]}

    @pytest.mark.parametrize(
        "change",
        [
            *({"metric": value} for value in (3, "a\x1b[31m", "a" * 2000)),
            *({"value": value} for value in ("5", None, float("inf"), 10**400)),
            *({"count": value} for value in (-1, 2.0, True)),
            *({"seed": value} for value in (-1, 2**63, 0.5)),
            {"more": 1},
        ],
    )
    def test_an_edited_origin_is_damage(self, path, change):
        origin = {**GOOD._asdict(), **change}
        write(path, {"lists": {"a": {"2": {"sigmas": [80.0, 0.5], "origin": origin}}}})
        with pytest.raises(
            UserError, match=r"last\.schedule\.json is damaged: delete it, or say found=false"
        ):
            schedules.read_found_samplers(path, "a", OWN, 0.002)

    @pytest.mark.parametrize(
        "lists", [[], {"a": []}, {"a": {"2": [80.0, 0.5]}}, {"a": {"2": {"sigmas": [1.0]}}}]
    )
    def test_an_edited_file_is_damage_to_readers_and_writers(self, path, lists):
        write(path, {"lists": lists})
        with pytest.raises(
            UserError, match=r"last\.schedule\.json is damaged: delete it, or say found=false"
        ):
            schedules.read_found_samplers(path, "a", OWN, 0.002)
        for use in (
            schedules.check_schedule_file,
            lambda ckpt: schedules.keep_lists(ckpt, "a", {"1step": SigmaList([80.0], GOOD)}),
        ):
            before = schedules.schedule_path(path).read_bytes()
            with pytest.raises(UserError, match=r"last\.schedule\.json is damaged: .* say task\.keep=false"):
                use(path)
            assert schedules.schedule_path(path).read_bytes() == before

    def test_writers_at_the_same_time_lose_nothing(self, path):
        fork = multiprocessing.get_context("fork")
        writers = [fork.Process(target=keep_many, args=(path, f"{i}")) for i in range(4)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(60)
        assert [writer.exitcode for writer in writers] == [0] * 4
        for i in range(4):
            assert sorted(sigmas(path, f"{i}")) == [f"{n}step" for n in range(1, 9)]

    def test_a_writer_waits_for_another_and_not_for_ever(self, path, monkeypatch):
        place = schedules.schedule_path(path)
        monkeypatch.setattr("consistency.tasks.schedule_file.PATIENCE", 0.01)
        with (
            locked(place),
            pytest.raises(UserError, match=r"last\.schedule\.json is being written by another"),
        ):
            schedules.keep_lists(path, "a", {"1step": SigmaList([80.0], GOOD)})

    def test_a_link_in_place_of_the_lock_is_refused(self, path, tmp_path):
        (tmp_path / "precious").write_text("content")
        (tmp_path / ".last.schedule.json.lock").symlink_to(tmp_path / "precious")
        with pytest.raises(UserError, match="is a link"):
            schedules.keep_lists(path, "a", {"1step": SigmaList([80.0], GOOD)})
        assert (tmp_path / "precious").read_text() == "content"


def keep_many(path, weights):
    for n in range(1, 9):
        schedules.keep_lists(path, weights, {f"{n}step": SigmaList([80.0 - i for i in range(n)], GOOD)})


class TestLadder:
    def test_a_second_ladder_adds_to_the_first(self, own, tmp_path):
        SMALL(session(tmp_path, own))
        first = session(tmp_path, own).trained
        replace(SMALL, calls=(2,))(session(tmp_path, own))
        again = session(tmp_path, own).trained
        assert {"1step", "2step", "4step"} <= first.found.keys() <= again.found.keys()
        four = [chosen_samplers(t, ["4step"])["4step"].sigmas for t in (first, again)]
        assert four[0] == four[1]

    def test_ladders_of_several_weights_do_not_meet(self, own, tmp_path, monkeypatch):
        """Hashes of weights stand for averages: this checkpoint has none."""
        with monkeypatch.context() as patch:
            patch.setattr("consistency.library.opening.weights_sha256", lambda state: "b")
            replace(SMALL, calls=(1, 3))(session(tmp_path, own))
        replace(SMALL, calls=(2,))(session(tmp_path, own))
        assert session(tmp_path, own).trained.found.keys() == {"2step"}
        assert sigmas(own, "b").keys() == {"1step", "3step"}

    def test_an_origin_says_what_was_searched(self, own, tmp_path):
        SMALL(session(tmp_path, own))
        digest = session(tmp_path, own).trained.provenance.weights_sha256
        for name, listed in read_lists(schedules.schedule_path(own), "")[digest].items():
            assert f"{len(listed.sigmas)}step" == name
            assert listed.origin._replace(value=0.0) == Origin("FD(digits)", 0.0, count=20, seed=1, budget=3)

    def test_without_a_search_nothing_is_kept(self, own, tmp_path):
        replace(SMALL, search=None)(session(tmp_path, own))
        assert not schedules.schedule_path(own).exists()

    def test_a_damaged_file_is_refused_before_the_search(self, own, tmp_path):
        schedules.schedule_path(own).write_text("{")
        begun = session(tmp_path, own, found=False)
        Watched(begun, calls=0)
        with pytest.raises(UserError, match=r"task\.keep=false"):
            SMALL(begun)

    def test_a_line_says_which_lists_replace_those_of_the_run(self, own, tmp_path, capsys):
        digest = session(tmp_path, own).trained.provenance.weights_sha256
        schedules.keep_lists(
            own, digest, {"1step": SigmaList([80.0], GOOD), "2step": SigmaList([80.0, 0.5], GOOD)}
        )
        assert capsys.readouterr().err == ""
        later = session(tmp_path, own).trained
        assert later.samplers["1step"].name == "onestep"  # its σ are the run's own
        (line,) = capsys.readouterr().err.splitlines()
        assert "last.schedule.json: 2step 80, 0.5 in place of 80, 0.821; found=false" in line
        plain = session(tmp_path, own, found=False).trained
        assert plain.samplers["2step"].sigmas == (80.0, 0.821)
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("found", [True, False])
    def test_the_other_parts_of_a_report_use_the_lists_of_its_ladder(self, own, tmp_path, found, capsys):
        def part(session):
            used.append(list(session.trained.samplers["2step"].sigmas))
            raise KeyboardInterrupt

        used = []
        report = Report(ladder=replace(SMALL, calls=(2,)), fidelity=part)
        with pytest.raises(KeyboardInterrupt):
            report(session(tmp_path, own, found))
        ((kept,),) = [by.values() for by in read_lists(schedules.schedule_path(own), "").values()]
        assert kept.sigmas != [80.0, 0.821]
        assert used == [kept.sigmas if found else [80.0, 0.821]]
        assert ("in place of 80, 0.821" in capsys.readouterr().err) is found


def test_a_ladder_changes_no_number_of_the_same_name(own, tmp_path, capsys):
    """Numbers of lists that were found have names of their own, and are measured on request."""
    fidelity = Fidelity(count=20, batch=20)
    before = fidelity(session(tmp_path, own, found=False))
    searched = SMALL(session(tmp_path, own, found=False))
    assert "found=true samples with them" in capsys.readouterr().err
    after = fidelity(session(tmp_path, own, found=False))
    assert after.metrics == before.metrics
    assert capsys.readouterr().err.count("\n") == 2  # of progress, and nothing of lists
    on_request = fidelity(session(tmp_path, own))
    assert on_request.metrics["FD(digits)/1step"] == before.metrics["FD(digits)/1step"]
    assert "FD(digits)/2step" not in on_request.metrics
    assert [number["name"] for number in on_request.numbers] == ["1step", "2step-found"]
    number = searched.metrics["FD(digits)/2step-found"]
    assert on_request.metrics["FD(digits)/2step-found"] == pytest.approx(number, rel=1e-5)


def test_a_sampler_that_was_found_is_named_with_the_override_that_adds_it(own, tmp_path):
    SMALL(session(tmp_path, own, found=False))
    with pytest.raises(UserError, match=r"task\.samplers=4step is not .*; found=true adds those that task="):
        chosen_samplers(session(tmp_path, own, found=False).trained, ["4step"])


class TestExported:
    @pytest.fixture
    def model(self, own, tmp_path):
        digest = session(tmp_path, own).trained.provenance.weights_sha256
        found = {f"{n}step": SigmaList([80.0, 9.0, 3.0, 1.0][:n], GOOD) for n in (2, 4)}
        schedules.keep_lists(own, digest, found)
        t = session(tmp_path, own).trained
        return Outgoing.of(t, chosen_samplers(t, None))

    def test_a_file_brings_lists_that_the_run_has_no_sampler_of(self, model, tmp_path, capsys):
        file = Safetensors()(model, tmp_path).files[0]
        capsys.readouterr()
        again = session(tmp_path / "eval", file).trained
        assert again.samplers["2step"].sigmas == (80.0, 9.0)
        assert chosen_samplers(again, ["4step"])["4step"].sigmas == (80.0, 9.0, 3.0, 1.0)
        assert f"{file}: 2step 80, 9 in place of 80, 0.821\n" in capsys.readouterr().err
        schedules.keep_lists(
            file, again.provenance.weights_sha256, {"2step": SigmaList([80.0, 0.821], GOOD)}
        )  # the run's own again
        assert session(tmp_path / "eval", file).trained.samplers["2step"].sigmas == (80.0, 0.821)

    def test_the_page_of_a_model_uses_them(self, model):
        made = offered(model)
        assert (made[2].sigmas, made[4].sigmas) == ((80.0, 9.0), (80.0, 9.0, 3.0, 1.0))
