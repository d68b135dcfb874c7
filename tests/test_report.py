"""Results beside each other, where their protocols allow it, and all of a run on one page."""

import json
import re
from html.parser import HTMLParser

import pytest
from omegaconf import open_dict

from consistency.build import make
from consistency.errors import UserError
from consistency.metrics.card import Card, Number
from consistency.schema.check import check_config
from consistency.table import Table
from consistency.tasks.show.compare import Compare
from consistency.tasks.show.curves import curve_families
from consistency.tasks.show.page import Picture, Section, html_page
from consistency.tasks.show.variation import config_changes
from tests.conftest import ROOT, SMALL, run
from tests.sessions import composed

PROTOCOL = {"count": 100, "seed": 0, "sampler": "onestep", "sigmas": [80.0], "nfe": 1, "weights": "ema"}


def number(value, model="a", **changes):
    card = Card({"weights_sha256": model}, {**PROTOCOL, **changes}, {"version": 1}, "commit")
    return Number({"FD": value}, card)


def kept(path, **numbers):
    """A result.json with numbers by the name of their sampler."""
    path.mkdir()
    plain = [one.to_plain(name) for name, some in numbers.items() for one in some]
    (path / "result.json").write_text(json.dumps({"numbers": plain}))
    return str(path)


class Folder:
    """As much of a session as a comparison looks at."""

    def __init__(self, directory):
        self.directory = directory


def compared(directory, *results, **options):
    return Compare([*results], **options)(Folder(directory))


class TestCompare:
    def test_models_may_differ_and_the_difference_is_shown(self, tmp_path):
        a = kept(tmp_path / "a", one=[number(4.0)])
        b = kept(tmp_path / "b", one=[number(5.5, model="b")])
        (table,) = compared(tmp_path, a, b).tables
        assert table.rows == [[a, "one", "4"], [b, "one", "5.5 (+1.5)"]]
        assert (tmp_path / "compare.md").read_text() == table.markdown() + "\n"

    def test_repeats_are_compared_by_their_means(self, tmp_path):
        a = kept(tmp_path / "a", one=[number(4.0), number(6.0, seed=1)])
        b = kept(tmp_path / "b", one=[number(7.0, model="b"), number(9.0, model="b", seed=1)])
        (table,) = compared(tmp_path, a, b).tables
        assert [row[2] for row in table.rows] == ["5 ± 1.4", "8 ± 1.4 (+3)"]
        lone = kept(tmp_path / "c", one=[number(4.0)])
        with pytest.raises(UserError, match="repeats are 2 in one and 1 in the other"):
            compared(tmp_path, a, lone)

    @pytest.mark.parametrize(
        "change",
        [
            {"count": 99},
            {"seed": 1},
            {"nfe": 2},
            {"sigmas": [80.0, 0.8]},
            {"weights": "raw"},
            {"resize": "x"},
        ],
    )
    def test_another_protocol_is_refused_by_name_unless_it_is_allowed(self, tmp_path, change):
        a = kept(tmp_path / "a", one=[number(4.0)])
        b = kept(tmp_path / "b", one=[number(5.0, model="b", **change)])
        (key,) = change
        with pytest.raises(UserError, match=rf"{key} is .* in one and .* in the other.*task\.allow"):
            compared(tmp_path, a, b)
        assert len(compared(tmp_path, a, b, allow=[key]).tables) == 1
        assert len(compared(tmp_path, a, b, allow=["all"]).tables) == 1
        with pytest.raises(UserError, match=key):
            compared(tmp_path, a, b, allow=["precision"])

    def test_one_step_beside_two_needs_names(self, tmp_path):
        a = kept(tmp_path / "a", one=[number(4.0)])
        b = kept(tmp_path / "b", two=[number(5.0, nfe=2)])
        with pytest.raises(UserError, match=r"share no sampler \(one; two\).*task\.names"):
            compared(tmp_path, a, b)
        with pytest.raises(UserError, match="nfe is 1 in one and 2 in the other"):
            compared(tmp_path, a, b, names=["one", "two"])
        assert compared(tmp_path, a, b, names=["one", "two"], allow=["nfe"]).tables[0].rows[1][1] == "two"
        with pytest.raises(UserError, match=r"task\.names: tow was not measured: did you mean 'two'"):
            compared(tmp_path, a, b, names=["one", "tow"])

    def test_bad_input_names_the_file(self, tmp_path):
        a = kept(tmp_path / "a", one=[number(4.0)])
        for few in ([], [a]):
            with pytest.raises(UserError, match="at least two"):
                compared(tmp_path, *few)
        with pytest.raises(UserError, match=r"absent/?.*cannot be read"):
            compared(tmp_path, a, str(tmp_path / "absent"))
        for name, text in (("cut", "{"), ("old", '{"metrics": {}}'), ("none", '{"numbers": []}')):
            (tmp_path / name).mkdir()
            (tmp_path / name / "result.json").write_text(text)
            with pytest.raises(UserError, match=rf"{name}/result\.json holds no numbers"):
                compared(tmp_path, a, str(tmp_path / name))


class Reader(HTMLParser):
    """Tags, and whatever would have to be fetched."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.outside, self.open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in {"meta", "img", "link", "br"}:
            self.open.append(tag)
        self.outside += [value for key, value in attrs if key in {"src", "href"} and value[:5] != "data:"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


class TestPage:
    def test_text_is_escaped_and_nothing_is_fetched(self):
        section = Section(
            "a < b", ["x & y"], [Picture(b"1", "image/png", '"c"')], [Table(["<h>"], [["<script>"]])]
        )
        text = html_page("<title>", ["&"], [section])
        read = Reader(text)
        assert read.open == []
        assert read.outside == []
        assert "script" not in read.tags
        for shown in ("a &lt; b", "x &amp; y", "&lt;script&gt;", "&lt;title&gt;"):
            assert shown in text

    def test_curves_of_a_metric_share_a_chart(self):
        curve, point = ([0, 1], [1.0, 2.0]), ([0], [1.0])
        found = curve_families(
            {"train/loss": curve, "train/lr": curve, "FD/1": curve, "FD/2": curve, "x": point}
        )
        assert found == {
            "train/loss": {"loss": curve},
            "train/lr": {"lr": curve},
            "FD": {"1": curve, "2": curve},
        }

    def test_a_table_reads_the_same_everywhere(self):
        table = Table(["a", "b"], [["1", "2"]], "title")
        assert table.markdown() == "**title**\n\n| a | b |\n| --- | --- |\n| 1 | 2 |"
        assert table.html().count("<td>") == 2


class TestVariation:
    def written(self, *words):
        from omegaconf import OmegaConf

        config = composed("train", "run_dir=x", *words)
        config.callbacks = config.logger = {}
        return OmegaConf.to_container(config, resolve=True)

    def test_what_differs_from_the_experiment_and_nothing_else(self, monkeypatch):
        monkeypatch.setattr(
            "consistency.tasks.show.variation.compose", lambda name, overrides: self.base(*overrides)
        )
        assert config_changes("ict_digits", self.written()).rows == []
        table = config_changes(
            "ict_digits", self.written("optimizer.lr=0.5", "net.width=64", "curriculum=constant")
        )
        rows = {row[0]: row[1:] for row in table.rows}
        assert rows["optimizer.lr"] == ["0.002", "0.5"]
        assert rows["net.width"][1] == "64"
        assert rows["curriculum._target_"][1].endswith("Constant")
        assert rows["curriculum.s0"] == ["10", "–"]
        assert all(key.split(".")[0] in {"optimizer", "net", "curriculum"} for key in rows)
        assert config_changes(None, {}) is None

    def base(self, *overrides):
        config = composed("train", "run_dir=y", *overrides)
        config.callbacks = config.logger = {}
        return config


@pytest.mark.parametrize("task", sorted(path.stem for path in (ROOT / "configs" / "task").glob("*.yaml")))
def test_every_task_is_built_from_its_config(task):
    config = composed("eval", f"task={task}", "metric=random_conv", "fabric=ddp_sim")
    check_config(config, "eval")
    assert callable(make(config.task))
    with open_dict(config):
        config.task.cuont = 1
    with pytest.raises(UserError, match=r"task\.cuont"):
        check_config(config, "eval")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    words = ["trainer.max_steps=20", "trainer.val_check_interval=10", "trainer.log_every_n_steps=5"]
    return run("train.py", tmp_path_factory.mktemp("run"), *SMALL, *words, "optimizer.lr=0.003")


PARTS = [
    *("task.fidelity.count=50", "task.ladder.count=40", "task.ladder.calls=[1,2]", "task.ladder.largest=4"),
    *("task.ladder.search.count=30", "task.ladder.search.budget=3", "task.ladder.patience=0.01"),
    *("task.sample.count=9", "task.sample.nearest=4", "task.gap.count=32", "task.gap.levels=5", "fabric=cpu"),
]


def test_one_command_puts_everything_on_one_page(trained, tmp_path):
    ckpt = f"ckpt_path={trained.directory}/checkpoints/last.ckpt"
    report = run("eval.py", tmp_path / "report", "task=report", ckpt, f"cache={tmp_path}/cache", *PARTS)
    assert report.status == 0, report.err
    text = (tmp_path / "report" / "report.html").read_text()
    read = Reader(text)
    assert read.open == []
    assert read.outside == []
    for heading in ("Samples", "Fidelity", "Ladder", "Consistency", "Config", "Curves", "Environment"):
        assert f"<h2>{heading}</h2>" in text
    assert re.search("<td>optimizer.lr</td><td>0.002</td><td>0.003</td>", text)
    assert text.count("image/svg+xml") >= 4
    for shown in (
        "<th>FD(digits)</th>",
        "<td>extractor_sha256</td>",
        "<td>gap/boundary (count=32, levels=5)</td>",
    ):
        assert shown in text
    for name in ("fidelity.md", "ladder.png", "gap.png", "1step.png", "1step-nearest.png"):
        assert (tmp_path / "report" / name).is_file()
    fidelity = run(
        "eval.py", tmp_path / "fd", "task=fidelity", ckpt, f"cache={tmp_path}/cache", "task.count=50"
    )
    assert fidelity.status == 0, fidelity.err
    assert "sampling" not in fidelity.err  # known from the report: with the lists that were found then
    for name, value in fidelity.result["metrics"].items():
        if name.startswith("precision"):
            assert report.result["metrics"][name] == value
    refused = run(
        "eval.py", tmp_path / "no", "task=compare", f"task.results=[{trained.directory},{tmp_path}/fd]"
    )
    assert refused.status == 1
    assert refused.err.count("\n") == 1
    assert "count is 64 in one and 50 in the other" in refused.err
