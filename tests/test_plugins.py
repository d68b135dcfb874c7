"""A package of somebody else: its parts, configs and checkpoints, from training to the report."""

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch import nn

from consistency.command.packages import trust_as_configured, trust_as_given
from consistency.errors import UserError
from consistency.files import configs
from consistency.files.config import checked_config
from consistency.files.configs import CONFIGS, config_groups, options, trust
from consistency.files.overrides import references
from consistency.metrics.card import code_version, source_sha256
from consistency.model.condition import Condition
from consistency.schema.check import check_composed
from consistency.schema.sections import known_sections
from consistency.schema.swaps import swaps
from tests.conftest import ROOT, run
from tests.sessions import composed, session, train_here
from tests.test_command import at_once

EXAMPLES = ROOT / "examples"
PAGE = ROOT / "docs" / "write_your_own.md"
MINE = "trust=[my_method]"
PATHS = {"PYTHONPATH": f"{ROOT / 'src'}:{EXAMPLES}"}
SHORT = ["trainer=cpu", "data.samples=64", "trainer.val_check_interval=4", "net.width=32"]
STEADY = ["rate=flat", "curriculum=constant"]  # more steps change none of the first
TRAINED = [MINE, "experiment=gated_digits", *SHORT, *STEADY]


@pytest.fixture(scope="module", autouse=True)
def importable():
    """The example, in the path of this process and of those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        patch.setenv("PYTHONPATH", PATHS["PYTHONPATH"])
        yield


@pytest.fixture(autouse=True)
def trusted():
    """No test trusts what another has."""
    yield
    trust(())


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A run of the example that was stopped after 4 steps and went on to 8."""
    place = tmp_path_factory.mktemp("mine") / "run"
    for more in (["trainer.max_steps=4"], ["trainer.max_steps=8", "ckpt_path=last"]):
        ended = run("train.py", place, *TRAINED, *more)
        assert ended.status == 0, ended.err
    return ended


def ask(mine, directory, *words):
    """An evaluation of the run, which has to succeed."""
    ended = run("eval.py", directory, f"ckpt_path={mine.directory}", *words)
    assert ended.status == 0, ended.err
    return ended


class TestExample:
    def test_a_label_of_minus_one_is_none(self):
        from my_method import GatedMLP

        net = GatedMLP((2,), classes=3)
        nn.init.ones_(net.head.weight)
        x, noise = torch.randn(4, 2), torch.randn(4)
        without = net(x, noise)
        torch.testing.assert_close(net(x, noise, Condition(torch.full((4,), -1))), without)
        assert not torch.allclose(net(x, noise, Condition(torch.tensor([0, 1, 2, 0]))), without)
        assert net.takes == ("label",)
        assert GatedMLP((2,)).takes == ()

    def test_it_goes_on_to_the_bit(self, mine, tmp_path):
        assert mine.raw == run("train.py", tmp_path, *TRAINED, "trainer.max_steps=8").raw
        assert mine.result["experiment"] == "gated_digits"
        assert "segments" in mine.result
        config = torch.load(mine.directory / "checkpoints" / "last.ckpt", weights_only=True)["config"]
        assert config["net"]["_target_"] == "my_method.GatedMLP"

    def test_fidelity_and_ladder(self, mine, tmp_path):
        words = [MINE, "task=fidelity", "task.count=64"]
        numbers = ask(mine, tmp_path / "fidelity", *words).result["numbers"]
        assert "my_method" in numbers[0]["card"]["code"]["packages_sha256"]
        search = ["task.search.budget=1", "task.search.scan=1", "task.search.count=64"]
        few = ["task.calls=[1,2]", "task.count=64", "task.largest=64", "task.patience=0.01", *search]
        metrics = ask(mine, tmp_path / "ladder", MINE, "task=ladder", *few).result["metrics"]
        assert any(name.startswith("FD(digits)/1step") for name in metrics)

    def test_exports_stand_for_the_checkpoint(self, mine, tmp_path):
        formats = [
            "task=export",
            "export=[safetensors,onnx,diffusers]",
            "task.batches=[1]",
            "task.patience=0.01",
        ]
        ask(mine, tmp_path / "export", MINE, *formats)
        (file,) = (tmp_path / "export" / "safetensors").glob("*.safetensors")
        assert [*(tmp_path / "export" / "onnx").glob("*.onnx")]
        sample = ["task=sample", "task.count=4", f"ckpt_path={file}"]
        refused = run("eval.py", tmp_path / "no", *sample)
        assert refused.status == 1
        assert "trust=[my_method]" in refused.err
        assert run("eval.py", tmp_path / "yes", MINE, *sample).status == 0
        readme = (tmp_path / "export" / "diffusers" / "README.md").read_text()
        assert "trust(['my_method'])" in readme

    def test_the_report_knows_its_experiment(self, mine, tmp_path):
        small = ["task.ladder=null", "task.fidelity.count=64", "task.sample.count=4", "task.gap.count=8"]
        ended = ask(mine, tmp_path, MINE, "task=report", *small)
        page = (ended.directory / "report.html").read_text()
        assert "gated_digits" in page
        assert "net.width" in page  # what differs from the experiment, whose file is in the package

    def test_its_checkpoint_is_refused_in_one_line_whatever_it_says_of_trust(self, mine, tmp_path):
        config = torch.load(mine.directory / "checkpoints" / "last.ckpt", weights_only=True)["config"]
        assert config["trust"] == ["my_method"]
        refused = run("eval.py", tmp_path / "x", "task=sample", f"ckpt_path={mine.directory}")
        assert refused.status == 1
        (line,) = refused.err.splitlines()
        assert "would call my_method.GatedMLP" in line
        assert line.endswith("if you trust that package: trust=[my_method]")
        assert not (tmp_path / "x").exists()

    @pytest.mark.slow
    def test_the_processes_that_a_command_starts_know_it_too(self, tmp_path):
        words = [*TRAINED, "trainer.max_steps=4"]
        one = run("train.py", tmp_path / "one", *words)
        two = run("train.py", tmp_path / "two", *words, "trainer=ddp_sim")
        assert two.status == 0, two.err
        swept = run("train.py", tmp_path / "s", "-m", *words, "net.blocks=1,2")
        assert swept.status == 0, swept.err
        assert one.status == 0
        assert len([*tmp_path.glob("s/*/result.json")]) == 2


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (f"train {MINE} experiment=gated_digit", "did you mean 'gated_digits'?"),
        (f"train {MINE} net=gatd", "net=gatd is not in configs/net: did you mean 'gated'?"),
        ("train net=gated", "net=gated is not in configs/net"),
        ("train trust=my_method", "trust=my_method must be a list of Python packages"),
        ("train trust=[my_methd]", "trust=[my_methd]: Python finds no package my_methd: install it"),
        (
            "eval trust=[my_methd] task=sample",
            "trust=[my_methd]: Python finds no package my_methd: install it",
        ),
        ("train trust=[a.b.c]", "trust=[a.b.c]: Python finds no package a.b.c: install it"),
    ],
)
def test_a_wrong_name_is_refused_at_once(tmp_path, command, line):
    script, *arguments = command.split()
    status, _, err = at_once(tmp_path, script, *arguments, **PATHS)
    assert status == 1
    (said,) = err
    assert line in said
    assert not [*tmp_path.iterdir()]


def test_help_lists_its_options(tmp_path):
    status, lines, _ = at_once(tmp_path, "train", "--help", MINE, **PATHS)
    assert status == 0
    assert any(
        line.split()
        == ["gated_digits", *["iCT", "on", "digits", "with", "a", "network", "from", "another", "package."]]
        for line in lines
    )
    _, without, _ = at_once(tmp_path, "train", "--help", **PATHS)
    assert not any("gated" in line for line in without)


def test_the_command_line_is_read_as_hydra_reads_it():
    for words, expected in {
        (MINE,): ["my_method"],
        ("+trust=['my_method']",): ["my_method"],
        (MINE, "trust=[]"): [],
        ("seed=1", "trusty=[my_method]"): [],
        ("trust=[my_method],[]",): [],  # a sweep, which is refused later
        ("trust=[",): [],
    }.items():
        trust(())
        trust_as_given(words)
        assert [package.name for package in configs.trusted()] == expected, words


def test_a_process_without_a_command_line_trusts_as_configured():
    trust_as_configured(OmegaConf.create({"trust": ["my_method"]}))
    assert "gated" in options("net")
    trust_as_configured(OmegaConf.create({"trust": []}))
    assert "gated" not in options("net")


def test_what_an_experiment_sets_for_its_network_is_dropped_with_it():
    trust(["my_method"])
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        compose("train", ["experiment=gated_digits", "net=mlp_small"])
        found = swaps((MINE, "experiment=gated_digits", "net=mlp_small"))
    assert any("net=mlp_small in place of gated: net.width=256" in line for line in found.lines)


PARTS = '''
from dataclasses import dataclass
from typing import Any
from lightning import Callback
from consistency.lit.data.points import Ring
from consistency.metrics.judge import Transport
from consistency.objectives.discrete import Discrete


class Circle(Ring):
    """A ring of very many modes."""

    def __init__(self, modes: int = 64, **run: Any) -> None:
        super().__init__(modes=modes, **run)


class Objective(Discrete):
    """The discrete one under another name."""


class Distance(Transport):
    """Under another name."""


class Counts(Callback):
    """Counts steps."""

    def __init__(self, every: int) -> None:
        self.every, self.seen = every, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self.seen += 1
        print("seen", self.seen)


@dataclass(frozen=True)
class Scale:
    """A law of a group of its own."""

    power: float = 1.0

def reader(path: str, trust: list[str]) -> Any:
    """In the place of a teacher."""
'''
FILES = {
    "__init__.py": "",
    "parts.py": PARTS,
    "configs/data/circle.yaml": (
        "_target_: other.parts.Circle\nmodes: 64\nbatch_size: 32\nseed: ${seed}\n"
        "samples: 64\nsample_batch: 64\n"
    ),
    "configs/objective/renamed.yaml": (
        "_target_: other.parts.Objective\npairs: ${pairs}\ndistance: ${distance}\nweight: ${weight}\n"
    ),
    "configs/metric/distance.yaml": "_target_: other.parts.Distance\nprojections: 16\n",
    "configs/scale/power.yaml": "_target_: other.parts.Scale\npower: ${others.power}\n",
    "configs/method/renamed.yaml": (
        "# @package _global_\ndefaults:\n  - ict\n  - override /objective: renamed\n  - _self_\n"
        "others:\n  power: 2.0\n"
    ),
    "configs/net/borrowed.yaml": "_target_: torch.nn.Identity\n",
    "configs/experiment/all_mine.yaml": (
        "# @package _global_\n# All of its parts at once.\ndefaults:\n  - /scale: power\n"
        "  - override /data: circle\n  - override /net: mlp_small\n  - override /method: renamed\n"
        "  - override /metric: distance\n  - _self_\n"
        "callbacks:\n  counts:\n    _target_: other.parts.Counts\n    every: 2\n"
        "trainer:\n  max_steps: 2\n  val_check_interval: 2\n"
    ),
}


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another package, with a part of every kind; its folder."""
    for name, text in FILES.items():
        path = tmp_path / "lib" / "other" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path / "lib")
    yield tmp_path / "lib" / "other"
    for name in [name for name in sys.modules if name.partition(".")[0] == "other"]:
        del sys.modules[name]


class TestParts:
    WORDS = ("experiment=all_mine", "trainer=cpu", "threads=1", "logger=none", "curriculum=constant")

    def test_parts_of_every_kind_are_trained_and_opened(self, other, tmp_path, capsys):
        trust(["other"])
        result = train_here(tmp_path / "run", *self.WORDS, "trust=[other]")
        assert "SW2/1step" in result["metrics"]
        assert "seen 2" in capsys.readouterr().out
        ckpt = tmp_path / "run" / "checkpoints" / "last.ckpt"
        opened = session(tmp_path / "eval", ckpt, overrides=["trust=[other]"]).trained
        assert type(opened.data).__name__ == "Circle"
        assert type(opened.file.build("module", "objective")).__name__ == "Objective"
        with pytest.raises(UserError, match=r"would call other\.parts\.\w+ .*trust=\[other\]"):
            _ = session(tmp_path / "refused", ckpt).trained

    def test_its_groups_and_sections_are_known(self, other):
        assert "scale" not in config_groups()
        trust(["other"])
        assert {"scale", "others"} <= known_sections("train")
        check_composed(composed("train", *self.WORDS, "run_dir=x"), "train")
        added = composed("train", "+scale=power", "run_dir=x", "method=renamed", "data=ring", "net=mlp_small")
        assert added.scale.power == 2.0
        assert "power" in references(configs.folders())["others.power"]
        trust(())
        assert not {"scale", "others"} & known_sections("train")

    @pytest.mark.parametrize(
        ("word", "line"),
        [
            ("+callbacks.counts.evry=1", "unknown key callbacks.counts.evry: did you mean 'every'?"),
            ("callbacks.counts.every=a", "callbacks.counts.every=a must be a whole number"),
            ("~callbacks.counts.every", "callbacks.counts.every has no value"),
            ("+data.batch_sise=3", "unknown key data.batch_sise: did you mean 'batch_size'?"),
            ("+scale.powr=3", "unknown key scale.powr: did you mean 'power'?"),
            ("+others2.x=3", "unknown key others2: did you mean 'others'?"),
        ],
    )
    def test_its_constructors_are_its_schema(self, other, word, line):
        trust(["other"])
        with pytest.raises(UserError, match=re.escape(line)):
            check_composed(composed("train", *self.WORDS, "run_dir=x", word), "train")

    @pytest.mark.parametrize(
        ("name", "whose"), [("net/mlp.yaml", "this project"), ("net/gated.yaml", "trust=[my_method]")]
    )
    def test_two_files_of_a_name_are_refused(self, other, name, whose):
        (other / "configs" / name).write_text("x: 1\n")
        with pytest.raises(UserError, match=re.escape(f"has the name of a config of {whose}: rename it")):
            trust(["my_method", "other"])
        assert configs.trusted() == ()

    def test_classes_that_its_configs_name_are_allowed_with_it(self, other):
        node = {"net": {"_target_": "torch.nn.Identity"}}
        with pytest.raises(UserError, match=r"trust=\[torch\]"):
            checked_config(node, "f")
        assert type(checked_config(node, "f", ["other"]).build("net")) is torch.nn.Identity
        with pytest.raises(UserError, match=r"trust=\[torch\]"):
            checked_config({"net": {"_target_": "torch.hub.load"}}, "f", ["other"])

    def test_a_reader_of_its_own_trusts_as_the_user_says(self, other):
        node = {"_target_": "other.parts.reader", "_partial_": True, "path": "x", "trust": ["os"]}
        built = checked_config({"module": {"teacher": node}}, "f", ["other"]).build("module")
        assert built["teacher"].keywords["trust"] == ["other"]

    def test_numbers_are_measured_again_when_it_changes(self, other):
        trust(["other"])
        before = code_version()
        source_sha256.cache_clear()
        (other / "parts.py").write_text(FILES["parts.py"] + "\n")
        assert code_version()["packages_sha256"] != before["packages_sha256"]
        trust(())
        assert "packages_sha256" not in code_version()

    def test_a_module_without_configs_may_be_trusted(self, other, tmp_path):
        (tmp_path / "lib" / "single.py").write_text("x = 1\n")
        trust(["single", "other.parts"])
        assert [package.configs for package in configs.trusted()] == [(), ()]
        assert [name for package in configs.trusted() for name, _ in package.sources()] == [
            "single.py",
            "parts.py",
        ]


BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_the_page_shows_the_files_of_the_example():
    shown = [text for kind, text in BLOCKS if kind in ("python", "yaml")]
    files = ["__init__.py", "configs/net/gated.yaml", "configs/experiment/gated_digits.yaml"]
    assert shown == [(EXAMPLES / "my_method" / name).read_text() for name in files]
    there = {path.relative_to(EXAMPLES / "my_method").as_posix() for path in EXAMPLES.rglob("*.*")}
    assert {name for name in there if "__pycache__" not in name} == {*files}


COMMANDS = [line for _, text in BLOCKS for line in text.splitlines() if line.startswith("python ")]


def test_the_commands_are_found():
    assert len(COMMANDS) == 7


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_of_the_page_composes(line):
    _, script, *words = shlex.split(line)
    trust_as_given(words)
    assert composed(Path(script).stem, *words)
