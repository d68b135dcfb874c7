"""A config that a file brings is plain data: it runs nothing, reads no environment and writes nowhere."""

import copy
import json
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from consistency.errors import UserError
from consistency.files.config import DEPTH, NODES, checked_config
from consistency.files.overrides import overridden
from consistency.files.paths import check_names, is_name
from consistency.nets import mlp
from consistency.teachers.checkpoint import checkpoint as teacher
from consistency.teachers.checkpoint import read_trained
from consistency.teachers.diffusers import WEIGHTS, diffusers, seal
from consistency.teachers.exported import write_exported
from tests.conftest import SMALL
from tests.sessions import checkpoint, composed, save_edited, session
from tests.test_bad_input import call, snapshot

MLP = "consistency.nets.mlp.MLP"
SHORT = [part for part in SMALL if not part.startswith("data.batch")]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The content of a checkpoint that nobody trained."""
    return torch.load(checkpoint(tmp_path_factory.mktemp("run")), weights_only=True)


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)


class Mine(mlp.MLP):
    """A network of the user's."""


class Written:
    """A checkpoint whose config was edited, in every format that holds one, and the command that opens it."""

    def __init__(self, folder, content):
        self.folder, self.content = folder, content

    def ckpt(self):
        save_edited(self.content, self.folder / "x.ckpt")
        return self.evaluated(self.folder / "x.ckpt")

    def safetensors(self):
        return self.evaluated(self.exported())

    def path(self):
        save_edited(self.content, self.folder / "x.ckpt")
        return self.taught(f"teacher.path={self.folder}/x.ckpt")

    def exported_path(self):
        return self.taught(f"teacher.path={self.exported()}")

    def in_diffusers(self):
        place = self.folder / "diffusers"
        place.mkdir()
        said = {"_class_name": "Network", "denoiser": self.content["config"]["model"]}
        (place / "config.json").write_text(json.dumps(said))
        save_file({"x": torch.zeros(1)}, place / WEIGHTS)
        return self.taught("teacher=diffusers", f"teacher.path={place}")

    def exported(self):
        about = {"config": self.content["config"], "experiment": "ict_digits", "step": 7, "weights": "raw"}
        state = {k.removeprefix("model."): v for k, v in self.content["state_dict"].items()}
        write_exported(self.folder / "x.safetensors", state, {**about, "sigmas": {"1step": [80.0]}})
        return self.folder / "x.safetensors"

    def evaluated(self, file):
        return "eval", f"ckpt_path={file}", "fabric=cpu", "task.count=2", f"run_dir={self.folder}/eval"

    def taught(self, *overrides):
        words = (*SHORT, "trainer.max_steps=2", "curriculum=constant", *overrides)
        return "train", "experiment=cd_digits", *words, f"run_dir={self.folder}/run"


FORMATS = [
    Written.ckpt,
    Written.safetensors,
    Written.path,
    Written.exported_path,
    Written.in_diffusers,
]


def created(mark):
    """A node made where it is resolved."""
    return f"${{oc.create:{{_target_:os.mkdir,path:{mark}}}}}"


def resolver(config, mark):
    config["model"]["net"] = created(mark)


def resolver_deep(config, mark):
    config["model"]["precond"]["sigma_data"] = created(mark)


def switched(config, mark):
    """One target when it is checked, another once the shape of the data has been written in between."""
    config["net"]["shape"] = [1, "os.mkdir", 8]
    node = config["model"]["net"]
    node["_target_"] = "${oc.select:net.shape.1," + MLP + "}"
    node["path"] = str(mark)


def plain_call(config, mark):
    config["model"]["net"] = {"_target_": "os.mkdir", "path": str(mark)}


def through_ours(config, mark):
    config["model"]["net"] = {"_target_": "consistency.console.os.mkdir", "path": str(mark)}


def through_partial(config, mark):
    config["model"]["precond"] = {"_target_": "functools.partial", "_args_": ["os.mkdir", str(mark)]}


def deferred(config, mark):
    config["model"]["net"] = {"_target_": "os.mkdir", "_partial_": True, "path": str(mark)}


EXPLOITS = [resolver, resolver_deep, switched, plain_call, through_ours, through_partial, deferred]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("exploit", EXPLOITS, ids=lambda exploit: exploit.__name__)
def test_a_config_runs_nothing(form, exploit, kept, tmp_path, capfd):
    content, mark = copy.deepcopy(kept), tmp_path / "mark"
    exploit(content["config"], mark)
    status = call(*form(Written(tmp_path, content)))
    err = capfd.readouterr().err
    assert status == 1, err
    assert err.count("\n") == 1
    assert "use a checkpoint written by this project" in err
    assert not mark.exists()


def test_an_untouched_checkpoint_is_evaluated(kept, tmp_path, capfd):
    for form in (Written.ckpt, Written.safetensors):
        assert call(*form(Written(tmp_path, kept))) == 0, capfd.readouterr().err
    assert (tmp_path / "eval" / "1step.png").is_file()


@pytest.mark.parametrize(
    "place",
    [
        "callbacks.x",
        "logger.save_dir",
        "data.root",
        "module.seed",
        "seed",
        "trainer.x",
        "samplers.1step.sigmas.0",
    ],
)
@pytest.mark.parametrize("value", ["${seed}", "a ${oc.env:HOME}", "${", "???", "\x1b[2J", "a\nb", "\ud800"])
def test_no_value_refers_to_anything(kept, place, value):
    config = copy.deepcopy(kept["config"])
    *above, last = place.split(".")
    node = config
    for name in above:
        node = node[name]
    node[int(last) if isinstance(node, list) else last] = value
    with pytest.raises(UserError, match=f"ckpt_path=x: {place} in its config "):
        checked_config(config, "ckpt_path=x")
    with pytest.raises(UserError, match=" in its config "):
        checked_config({"net": {value: 1}}, "ckpt_path=x")


def nested(levels):
    node = []
    for _ in range(levels):
        node = [node]
    return node


def doubled(levels):
    node = [1]
    for _ in range(levels):
        node = [node, node]
    return node


def round_about():
    node = []
    node.append(node)
    return node


@pytest.mark.parametrize(
    "value",
    [
        nested(DEPTH), nested(100_000), doubled(30), round_about(), [0] * NODES, {1: 2}, {"x": (1,)}, b"x",
        2**64, "x" * 20_000, {"_args_": [1]}, {"_partial_": True}, {"_target_": MLP, "_partial_": 1},
        {"_target_": MLP, "_recursive_": False}, {"_target_": MLP, "_convert_": "all"}, {"_target_": None},
        {"_target_": ["os.mkdir"]}, {"_target_": MLP + "."}, {"_target_": MLP + ".__class__"}, 1j,
        {"_target_": "consistency.nets.mlp.\uff2d\uff2c\uff30"}, {"_target_": " " + MLP}, torch.zeros(1),
        {"_target_": "consistency.teachers.checkpoint.checkpoint", "_partial_": True, "path": "x"},
        {"_target_": "lightning.Trainer"}, {"_target_": "consistency.lit.callbacks.checkpoints.Checkpoints"},
        {"_target_": "consistency.tasks.make.export.Export"}, {"_target_": "consistency.sweep.table.Table"},
    ],
)  # fmt: skip
def test_only_plain_data_with_targets_of_the_registry(value):
    with pytest.raises(UserError) as error:
        checked_config({"net": value}, "ckpt_path=x")
    assert len(str(error.value)) < 400
    assert str(error.value).isascii()


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("net", "consistency.metrics.perceptual.LPIPS"), ("metric", MLP), ("data", MLP), ("model", MLP),
        ("precond", MLP),
        ("samplers.1step", MLP), ("module.optimizer", "consistency.lit.data.rollouts.Store"),
        ("model.net", "consistency.metrics.features.inception.InceptionFeatures"),
    ],
)  # fmt: skip
def test_a_group_holds_its_own_targets_alone(place, name, kept):
    config = copy.deepcopy(kept["config"])
    node = config
    for key in place.split("."):
        node = node[key]
    node["_target_"] = name
    with pytest.raises(UserError, match=rf"would call {name} \({place}\)"):
        checked_config(config, "ckpt_path=x")


def test_what_was_checked_is_what_is_built_from():
    node = {"_target_": MLP, "shape": [2], "classes": 0, "width": 8, "blocks": 1}
    config = {"net": node}
    found = checked_config(config, "ckpt_path=x")
    node["_target_"] = "os.mkdir"
    assert type(found.build("net")).__name__ == "MLP"
    with pytest.raises(TypeError):
        found.content["net"]["_target_"] = "os.mkdir"
    found.to_plain()["net"]["_target_"] = "os.mkdir"
    assert type(found.build("net")).__name__ == "MLP"


def test_a_target_that_takes_other_arguments_is_said_in_one_line():
    found = checked_config({"a": {"net": {"_target_": MLP, "nosuch": 1}}}, "ckpt_path=x")
    with pytest.raises(UserError, match=rf"ckpt_path=x: a.net makes no {MLP} of this version .*nosuch"):
        found.build("a")
    with pytest.raises(UserError, match="has no section b"):
        found.build("b")


def test_containers_and_partial_objects_are_spelled_as_hydra_does():
    node = {
        "_target_": "consistency.model.solvers.heun",
        "_partial_": True,
        "sigmas": [80.0, {"a": [1]}],
    }
    made = checked_config({"solver": node, "none": None}, "x")
    assert made.build("solver").keywords == {"sigmas": [80.0, {"a": [1]}]}
    assert made.build("solver").func.__name__ == "heun"


class TestTrust:
    @pytest.fixture
    def strangers(self, tmp_path, monkeypatch):
        """A package whose import leaves a mark."""
        (tmp_path / "lib" / "strangers").mkdir(parents=True)
        (tmp_path / "lib" / "strangers" / "__init__.py").write_text(
            "import os\nfrom consistency.nets.mlp import MLP\n"
            f"os.makedirs({str(tmp_path / 'imported')!r}, exist_ok=True)\n"
            "class Net(MLP):\n    @classmethod\n    def made(cls, **given):\n        return cls(**given)\n"
        )
        monkeypatch.syspath_prepend(tmp_path / "lib")
        yield tmp_path / "imported"
        sys.modules.pop("strangers", None)

    @pytest.mark.parametrize("form", [Written.ckpt, Written.safetensors], ids=lambda form: form.__name__)
    @pytest.mark.parametrize("name", ["strangers.Net", "strangers.Net.made"])
    def test_a_package_is_imported_only_when_the_user_names_it(
        self, form, name, kept, tmp_path, strangers, capfd
    ):
        content = copy.deepcopy(kept)
        content["config"]["model"]["net"]["_target_"] = name
        content["config"]["trust"] = ["strangers"]  # which is not for a file to say
        command = form(Written(tmp_path, content))
        assert call(*command) == 1
        err = capfd.readouterr().err
        assert f"would call {name} (model.net)" in err
        assert "trust=[strangers]" in err
        assert not strangers.exists()
        assert call(*command, "trust=[strangers]") == 0, capfd.readouterr().err
        assert strangers.exists()

    def test_for_teachers_as_well(self, kept, tmp_path, strangers):
        content = copy.deepcopy(kept)
        content["config"]["model"]["net"]["_target_"] = "strangers.Net"
        save_edited(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=r"^teacher.path=.*trust=\[strangers\]"):
            teacher(tmp_path / "x.ckpt")
        assert type(teacher(tmp_path / "x.ckpt", trust=["strangers"]).net).__name__ == "Net"
        said = {"_class_name": "Network", "denoiser": content["config"]["model"]}
        (tmp_path / "config.json").write_text(json.dumps(said))
        state = {k.removeprefix("model."): v for k, v in content["state_dict"].items()}
        save_file(state, tmp_path / WEIGHTS)
        seal(tmp_path)
        with pytest.raises(UserError, match=r"trust=\[strangers\]"):
            diffusers(tmp_path, nn.Identity())
        assert type(diffusers(tmp_path, nn.Identity(), trust=["strangers"]).net).__name__ == "Net"

    @pytest.mark.parametrize("name", ["strangers.os.mkdir", "strangers.MLP", "strangers.Net.__init__"])
    def test_only_what_is_defined_in_the_package(self, name, strangers):
        with pytest.raises(UserError):
            checked_config({"x": {"_target_": name, "path": "mark"}}, "f", ["strangers"]).build("x")

    def test_a_teacher_in_a_file_is_trusted_as_the_user_says(self):
        node = {"_target_": "consistency.teachers.checkpoint.checkpoint", "_partial_": True, "path": "x"}
        config = {"module": {"teacher": {**node, "trust": ["os", "strangers"]}}}
        assert checked_config(config, "f").build("module")["teacher"].keywords["trust"] == []
        assert checked_config(config, "f", ["mine"]).build("module")["teacher"].keywords["trust"] == ["mine"]

    @pytest.mark.parametrize("kind", ["checkpoint", "diffusers"])
    def test_the_command_line_hands_it_to_teachers(self, kind):
        words = ["experiment=cd_digits", f"teacher={kind}", "trust=[mine]"]
        assert composed("train", *words).module.teacher.trust == ["mine"]

    @pytest.mark.parametrize("trust", ["os", [1], ["a b"], [""], ["a..b"], 5])
    def test_it_is_a_list_of_packages(self, trust):
        with pytest.raises(UserError, match=r"trust=.* must be a list of Python packages"):
            checked_config({}, "f", trust)


@pytest.mark.parametrize("task", ["export", "report", "sample"])
def test_the_environment_stays_where_it_is(task, kept, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SECRET", "hunter2")
    content = copy.deepcopy(kept)
    content["config"]["logger"] = {"name": "${oc.env:SECRET}"}
    command = Written(tmp_path, content).ckpt()
    words = ["task=export", "export=safetensors"] if task == "export" else [f"task={task}"]
    status = call(*(word for word in command if word != "task.count=2"), *words)
    captured = capfd.readouterr()
    assert status == 1
    assert "logger.name in its config refers to something" in captured.err
    assert "hunter2" not in captured.err + captured.out
    assert not [f for f in tmp_path.rglob("*") if f.is_file() and b"hunter2" in f.read_bytes()]


NAMES = [
    "/tmp/photo",
    "../x",
    "..",
    ".",
    "",
    ".hidden",
    "a/b",
    "a\\b",
    "a" * 65,
    "ü",
    "a b",
    "a\n",
    "a\0",
    "ａ",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_lead_elsewhere_are_refused(name, kept, tmp_path):
    assert not is_name(name)
    with pytest.raises(UserError, match=r"^samplers: "):
        check_names("samplers", [name])
    for edit in (sampler_named, average_named, experiment_named):
        content = copy.deepcopy(kept)
        if edit(content, name):
            save_edited(content, tmp_path / "x.ckpt")
            with pytest.raises(UserError, match=r"x\.ckpt: .*(cannot be the name of a file|holds control)"):
                read_trained(tmp_path / "x.ckpt")


def test_a_file_may_not_bring_a_thousand_samplers():
    with pytest.raises(UserError, match="samplers: 1,000 of them"):
        check_names("samplers", [f"{i}step" for i in range(1000)])


def sampler_named(content, name):
    module = content["config"]["module"]
    module["samplers"][name] = module["samplers"]["1step"]
    return True


def average_named(content, name):
    content["callbacks"] = {"EMA": {"averages": {name: {}}, "evaluate": name}}
    return True


def experiment_named(content, name):
    content["experiment"] = name
    return "/" not in name or name.startswith(("/", ".."))


@pytest.mark.parametrize("name", ["1step", "2-step", "a.b", "step=5", "a_b+c", "a" * 64])
def test_usual_names_are_taken(name):
    assert is_name(name)


@pytest.mark.parametrize("form", [Written.ckpt, Written.safetensors], ids=lambda form: form.__name__)
def test_a_picture_lands_in_the_run_directory_only(form, kept, tmp_path, capfd):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "photo.png").write_text("mine")
    before, content = snapshot(tmp_path / "home"), copy.deepcopy(kept)
    sampler_named(content, str(tmp_path / "home" / "photo"))
    assert call(*form(Written(tmp_path, content))) == 1
    assert "samplers: '" in capfd.readouterr().err
    assert snapshot(tmp_path / "home") == before


def test_a_training_takes_no_name_that_its_checkpoint_could_not_have(tmp_path, capfd):
    words = ["experiment=ict_digits", *SHORT, f"run_dir={tmp_path}/run"]
    assert call("train", *words, "+samplers={a b:${samplers.1step}}") == 1
    assert "samplers: 'a b' cannot be the name of a file" in capfd.readouterr().err
    assert call("train", *words, "+callbacks.ema.decays={a b:${ema}}") == 1
    assert "callbacks.ema.decays: 'a b' cannot" in capfd.readouterr().err


class TestWritingPlaces:
    """An evaluation reads data where the file says they are, and writes below its own directories."""

    @pytest.fixture
    def pictures(self, tmp_path):
        from PIL import Image

        root = tmp_path / "home" / "pictures"
        root.mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 8), 60 * i).save(root / f"{i}.png")
        return root

    def run(self, kept, tmp_path, data, **metric):
        content = copy.deepcopy(kept)
        common = {k: content["config"]["data"][k] for k in ("batch_size", "seed", "samples", "sample_batch")}
        content["config"]["data"] = {**common, **data}
        content["config"]["metric"].update(metric)
        path = tmp_path / "run" / "checkpoints" / "x.ckpt"
        path.parent.mkdir(parents=True)
        save_edited(content, path)
        return path

    def test_images_are_converted_into_the_cache_of_the_evaluation(self, kept, pictures, tmp_path):
        victim = tmp_path / "home" / "victim"
        victim.mkdir()
        (victim / "thesis.tex").write_text("mine")
        data = {"_target_": "consistency.lit.data.folder.ImageFolder", "root": str(pictures), "resolution": 8}
        path = self.run(kept, tmp_path, data | {"channels": 1, "cache": str(victim)}, cache=str(victim))
        before = {p: p.stat().st_mtime_ns for p in (tmp_path / "home").rglob("*")}
        trained = session(tmp_path / "eval", path).trained
        assert len(trained.data.real()) == 4
        trained.judge.begin(trained.data.real(), torch.device("cpu"))
        assert {p: p.stat().st_mtime_ns for p in (tmp_path / "home").rglob("*")} == before
        assert {p.name for p in (tmp_path / "run" / "cache").iterdir()} >= {"reference"}

    def test_the_user_may_name_others(self, kept, pictures, tmp_path):
        data = {"_target_": "consistency.lit.data.folder.ImageFolder", "root": "nowhere", "resolution": 8}
        path = self.run(kept, tmp_path, data | {"channels": 1, "cache": None})
        words = [f"+override.data.root={pictures}", f"+override.data.cache={tmp_path}/mine"]
        words += [f"+override.metric.cache={tmp_path}/features"]
        trained = session(tmp_path / "eval", path, overrides=words).trained
        trained.judge.begin(trained.data.real(), torch.device("cpu"))
        assert (tmp_path / "mine").is_dir()
        assert list((tmp_path / "features").glob("*.safetensors"))

    @pytest.mark.parametrize("kind", ["CIFAR10", "FashionMNIST"])
    def test_nothing_is_downloaded_to_where_the_file_says(self, kind, kept, tmp_path, monkeypatch):
        from torchvision import datasets

        def download(root, *_, download=False, **__):
            if not download:
                raise RuntimeError("not there")
            asked.append(root)
            raise RuntimeError("no network")

        asked = []
        monkeypatch.setattr(datasets.CIFAR10, "__init__", lambda self, *a, **k: download(*a, **k))
        monkeypatch.setattr(datasets.FashionMNIST, "__init__", lambda self, *a, **k: download(*a, **k))
        data = {"_target_": f"consistency.lit.data.vision.{kind}", "root": str(tmp_path / "home")}
        path = self.run(kept, tmp_path, data)
        with pytest.raises(UserError, match="no network"):
            session(tmp_path / "eval", path).trained.data.real()
        assert asked == [str(tmp_path / "run")]
        assert not (tmp_path / "home").exists()


class TestOverrides:
    def trained(self, kept, tmp_path, *overrides):
        path = tmp_path / "run" / "checkpoints" / "x.ckpt"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_edited(kept, path)
        return session(tmp_path / "eval", path, overrides=overrides).trained

    def test_a_section_is_changed_in_all_its_copies(self, kept, tmp_path):
        with pytest.raises(UserError, match=r"is of another network: .*\(32.* there and \(16"):
            self.trained(kept, tmp_path, "+override.net.width=16")
        trained = self.trained(kept, tmp_path, "+override.net.dropout=0.25")
        assert trained.provenance.config["model"]["net"]["dropout"] == 0.25
        assert trained.provenance.config["teacher"]["weights"] is None

    def test_a_value_is_changed_wherever_it_is_referred_to(self, kept, tmp_path):
        trained = self.trained(kept, tmp_path, "+override.sigma.max=40.0")
        assert trained.samplers["1step"].sigmas == (40.0,)
        assert trained.samplers["2step"].sigmas == (40.0, 0.821)
        assert trained.sigma.max == 40.0

    def test_a_copy_that_differs_already_is_left_alone(self, kept, tmp_path):
        content = copy.deepcopy(kept)
        content["config"]["net"]["dropout"] = 0.5
        with pytest.raises(
            UserError, match=r"override\.net\.dropout=0\.1 would change nothing.*model\.net\.d"
        ):
            self.trained(content, tmp_path, "+override.net.dropout=0.1")

    @pytest.mark.parametrize(
        "word", ["callbacks.guard.spike=3", "trainer.precision=bf16", "logger.name=x", "optimiser.lr=1"]
    )
    def test_what_reaches_nothing_is_refused(self, word, kept, tmp_path):
        with pytest.raises(UserError, match=r"^override\..* would change nothing"):
            self.trained(kept, tmp_path, f"+override.{word}")

    def test_of_the_metric_where_another_is_chosen(self, kept, tmp_path):
        with pytest.raises(UserError, match="would change nothing"):
            self.trained(kept, tmp_path, "metric=random_conv", "+override.metric.cache=x")

    def test_targets_of_the_command_line_are_the_users(self, kept, tmp_path):
        word = "+override.model.net._target_=tests.test_registry.Mine"
        assert isinstance(self.trained(kept, tmp_path, word).f.net, Mine)

    def test_its_values_are_plain_as_well(self, kept, tmp_path):
        with pytest.raises(UserError, match=r"data\.seed in its config"):
            self.trained(kept, tmp_path, "+override.data.seed='\\${seed}'")
        with pytest.raises(UserError, match="override=5"):
            self.trained(kept, tmp_path, "override=5")
        with pytest.raises(UserError, match=r"override\.samplers\.2step\.sigmas is a list"):
            overridden(kept["config"], {"samplers": {"2step": {"sigmas": {1: 0.5}}}}, ["module"])


@pytest.mark.parametrize(
    "change", [{"f": 1}, {"name": "x"}, {"sigmas": []}, {"_partial_": True}, {"clip": 3}]
)
def test_a_file_whose_samplers_are_none_is_refused(change, kept, tmp_path):
    content = copy.deepcopy(kept)
    content["config"]["module"]["samplers"]["1step"].update(change)
    save_edited(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match=r"samplers\.1step"):
        session(tmp_path / "eval", tmp_path / "x.ckpt").trained  # noqa: B018


def test_nets_of_other_data_are_refused(kept, tmp_path):
    for key in ("net", "model"):
        content = copy.deepcopy(kept)
        node = content["config"][key]
        (node if key == "net" else node["net"])["shape"] = [3, 8, 8]
        save_edited(content, tmp_path / "x.ckpt")
        with pytest.raises(UserError, match=r"net and model\.net are for other data"):
            session(tmp_path / "eval", tmp_path / "x.ckpt").trained  # noqa: B018


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("state_dict", [1]), ("state_dict", {"x": 1}), ("state_dict", {1: torch.zeros(1)}), ("config", [1]),
        ("callbacks", {"EMA": {}}), ("callbacks", [1]), ("callbacks", {"EMA": 1}),
        ("callbacks", {"EMA": {"averages": [1]}}),
        ("callbacks", {"EMA": {"averages": {"ema": {"x": 1}}, "evaluate": "ema"}}), ("global_step", -1),
        ("callbacks", {"EMA": {"averages": {}, "evaluate": 5}}), ("global_step", "7"), ("experiment", 5),
        ("state_dict", {"x": torch.zeros(1).expand(10**12)}), ("state_dict", {"x": torch.eye(2).to_sparse()}),
    ],
)  # fmt: skip
def test_parts_of_another_kind_are_refused(part, value, kept, tmp_path):
    save_edited({**kept, part: value}, tmp_path / "x.ckpt")
    with pytest.raises(
        UserError, match=r"x\.ckpt is malformed|holds .* where weights|fewer numbers|has no checksum"
    ):
        read_trained(tmp_path / "x.ckpt")
