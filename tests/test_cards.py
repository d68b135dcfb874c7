"""Cards: all that moves a number, and what they forbid."""

import json
from dataclasses import asdict, replace

import pytest

from consistency.files.configs import Package
from consistency.lit.data.digits import Digits
from consistency.lit.data.points import Moons
from consistency.metrics import card as card_module
from consistency.metrics import protocol
from consistency.metrics.card import (
    Card,
    Memo,
    Number,
    code_version,
    forbidding_differences,
    hash_or_text,
    number_from_plain,
    source_sha256,
)
from consistency.metrics.features.digits import DigitsFeatures
from consistency.metrics.judge import Fidelity, Transport
from consistency.model.coordinates import Linear
from consistency.model.precond import Velocity
from consistency.sampling.ode import Heun
from consistency.sampling.samplers import MultiStep, OneStep
from consistency.tasks.show.card_tables import card_tables

TWO = MultiStep([80.0, 0.821])
SHA, OTHER = "a" * 64, "b" * 64


@pytest.fixture(scope="module")
def data():
    return Digits(batch_size=8, conditional=True)


@pytest.fixture(scope="module")
def judge(data):
    found = Fidelity(DigitsFeatures()).thorough()
    found.begin(data.real(), found.extractor.get_buffer("scale").device)
    return found


@pytest.fixture
def card(data, judge):
    how = protocol.protocol(TWO, judge, data, 5000, 3, "32-true", "ema")
    what = protocol.model("ict_digits", "consistency function", 6000, SHA, {"sigma_data": 0.5}, data.codec)
    return Card(what, how, code_version(), "0123abc+")


def changed(card, **words):
    return replace(card, protocol=card.protocol | words)


def test_a_card_says_all_that_moves_a_number(card, judge):
    expected = {
        "extractor": "digits",
        "extractor_sha256": judge.extractor.weights_sha256,
        "resize": "none: images are seen as they are",
        "data": "Digits",
        "split": "training",
        "reference_sha256": judge.real.sha256,
        "reference_count": 1797,
        "count": 5000,
        "seed": 3,
        "rounding": "to the nearest level, as EDM's truncate(127.5 x + 128)",
        "weights": "ema",
        "sampler": "multistep",
        "sigmas": [80.0, 0.821],
        "sigma_min": 0.002,
        "nfe": 2,
        "precision": "32-true",
        "flips": False,
        "labels": "i mod 10",
        "is_splits": 10,
        "is_seed": 2020,
        "kid_subsets": 100,
        "kid_subset_size": 1000,
        "kid_seed": 2020,
        "prc_neighbours": 3,
        "prc_samples": 5000,
        "prc_reference": 1797,
        "prc_seed": 2020,
    }
    assert card.protocol == expected
    assert card.model.keys() == {"experiment", "role", "step", "weights_sha256", "denoiser_sha256"}
    assert card.code.keys() == {"version", "source_sha256", "torch", "torch-fidelity"}
    assert card.commit == "0123abc+"


def test_points_are_not_rounded():
    data, judge = Moons(batch_size=8), Transport(projections=16)
    judge.begin(data.real(), data.real().device)
    found = protocol.protocol(OneStep([80.0]), judge, data, 9, 0, "32-true", "raw")
    assert found["rounding"] == "none: points"
    assert found["distance"] == "sliced Wasserstein-2, 16 directions"
    assert (found["nfe"], found["labels"], found["count"]) == (1, "none", 9)


def test_fewer_samples_shrink_what_is_drawn_from_them(data, judge):
    found = protocol.protocol(TWO, judge, data, 7, 0, "32-true", "ema")
    assert (found["kid_subset_size"], found["is_splits"]) == (7, 7)


def test_whatever_a_sampler_was_given_stands_on_its_card():
    assert protocol.describe_sampler(Heun([80.0, 1.0])) == {
        "sampler": "heun",
        "nfe": 3,
        "sigmas": [80.0, 1.0],
    }
    precond = Velocity(Linear())
    found = protocol.describe_sampler(OneStep([80], precond=precond))
    assert found == {"sampler": "onestep", "nfe": 1, "sigmas": [80.0], "precond": repr(precond)}
    json.dumps(found)


@pytest.mark.parametrize("name", ["offset", "scale"])
def test_the_same_weights_in_other_units_are_another_model(data, name):
    other = Digits(batch_size=8, **{name: 127.5})
    one, two = (protocol.model("x", "denoiser", 1, SHA, {"a": 1}, d.codec) for d in (data, other))
    assert one["denoiser_sha256"] != two["denoiser_sha256"]


class TestDifferences:
    def test_equal_cards_have_none_whatever_their_models(self, card):
        assert forbidding_differences(card, card) == []
        assert forbidding_differences(card, replace(card, model={"experiment": "cd_digits"})) == []
        assert (
            forbidding_differences(
                card, number_from_plain(json.loads(json.dumps(Number({}, card).to_plain("2step")))).card
            )
            == []
        )

    def test_each_field_of_the_protocol_is_named(self, card):
        for key in card.protocol:
            (said,) = forbidding_differences(card, changed(card, **{key: "else"}))
            assert said == f"{key} is {hash_or_text(card.protocol[key])} in one and else in the other"

    def test_several_are_named_one_by_one_and_allowed_one_by_one(self, card):
        other = changed(card, seed=4, count=50)
        assert forbidding_differences(card, other) == [
            "count is 5000 in one and 50 in the other",
            "seed is 3 in one and 4 in the other",
        ]
        assert forbidding_differences(card, other, allow=["seed"]) == [
            "count is 5000 in one and 50 in the other"
        ]
        assert forbidding_differences(card, other, allow=["seed", "count"]) == []

    def test_a_field_that_only_one_has_is_a_difference(self, card):
        said = ["eta is absent in one and 0.5 in the other", "eta is 0.5 in one and absent in the other"]
        other = changed(card, eta=0.5)
        assert [*forbidding_differences(card, other), *forbidding_differences(other, card)] == said

    def test_the_commit_and_the_source_do_not_matter_and_the_version_does(self, card):
        source = replace(card, code=card.code | {"source_sha256": OTHER, "torch": "9.9"}, commit=None)
        assert forbidding_differences(card, source) == []
        version = replace(card, code=card.code | {"version": 2})
        assert forbidding_differences(card, version) == ["version is 1 in one and 2 in the other"]
        assert forbidding_differences(card, version, allow=["version"]) == []


class TestDigest:
    def test_is_that_of_the_content_in_any_order(self, card):
        backwards = [dict(reversed(part.items())) for part in (card.model, card.protocol, card.code)]
        assert Card(*backwards, commit="another").digest == card.digest
        assert Card(**json.loads(json.dumps(asdict(card)))).digest == card.digest

    def test_changes_with_every_part(self, card):
        others = [changed(card, seed=4), replace(card, model={}), replace(card, code={"version": 2})]
        assert len({card.digest, *(other.digest for other in others)}) == 4

    def test_the_package_is_part_of_it(self, monkeypatch, tmp_path):
        (tmp_path / "one.py").write_text("x = 1\n")
        monkeypatch.setattr(card_module, "OURS", Package("consistency", (tmp_path,)))
        source_sha256.cache_clear()
        before = code_version()
        (tmp_path / "one.py").write_text("x = 2\n")
        source_sha256.cache_clear()
        after = code_version()
        assert before["source_sha256"] != after["source_sha256"]
        assert before["torch"] == after["torch"]

    def test_numbers_of_another_card_are_not_recalled(self, card, tmp_path):
        memo = Memo(tmp_path)
        memo.once(card, lambda: {"FD": 1.0})
        assert memo.recall(card.digest)["found"] == {"FD": 1.0}
        assert memo.recall(changed(card, weights="raw").digest) is None


def test_hashes_are_cut_and_nothing_else():
    assert hash_or_text(SHA) == "aaaaaaaaaaaa…"
    assert hash_or_text("x" * 64) == "x" * 64
    assert [hash_or_text(value) for value in (None, False, 3, [80.0, 0.821])] == [
        "absent",
        "False",
        "3",
        "[80.0, 0.821]",
    ]


def test_a_table_says_once_what_all_share(card):
    one = changed(card, sampler="onestep", sigmas=[80.0], nfe=1)
    own, shared = card_tables({"1step": one, "2step": card})
    assert own.head == ["", "1step", "2step"]
    assert ["sigmas", "80", "80, 0.821"] in own.rows
    assert {row[0] for row in own.rows} == {"sampler", "sigmas", "nfe"}
    said = dict(shared.rows)
    assert said["seed"] == "3"
    assert said["reference_sha256"] == f"{card.protocol['reference_sha256'][:12]}…"
    assert said["commit"] == "0123abc+"
    assert len(card_tables({"2step": card})) == 1
