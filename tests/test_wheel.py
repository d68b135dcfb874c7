"""The package as it is installed: what a wheel holds, and its commands where there is no checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from consistency import result
from consistency.continuation.again import command_of
from consistency.files import configs
from consistency.process.entry import current_entry, entry_name, program, typed_entry
from consistency.result import commit
from consistency.sweep.command import command_to_go_on
from tests.conftest import ROOT, SMALL

SOURCES = ("src", "configs", "pyproject.toml", "setup.py", "README.md", "LICENSE")
CACHES = ("__pycache__", ".egg-info")
COMMANDS = {  # argv[0], and what `python -m` has begun with -> how train and eval are typed
    ("train.py", None): ("python train.py", "python eval.py"),
    ("../there/eval.py", None): ("python ../there/train.py", "python ../there/eval.py"),
    ("/bin/consistency-train", None): ("consistency-train", "consistency-eval"),
    ("/lib/consistency/eval.py", "consistency.eval"): (
        "python -m consistency.train",
        "python -m consistency.eval",
    ),
    ("/lib/pytest/__main__.py", "pytest.__main__"): ("python train.py", "python eval.py"),
}


def copy_of_checkout(folder):
    """What a wheel is built of, where building leaves nothing in the checkout."""
    ignored = shutil.ignore_patterns(*(f"*{name}" for name in CACHES))
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def build(checkout, wheels):
    """A wheel of a copy of the checkout, without a warning."""
    code = f"from setuptools.build_meta import build_wheel; print(build_wheel({str(wheels)!r}))"
    made = subprocess.run([sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert "Warning" not in made.stderr
    return wheels / made.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    checkout = copy_of_checkout(tmp_path_factory.mktemp("checkout"))
    return build(checkout, tmp_path_factory.mktemp("wheel"))


def inside(wheel):
    """The files of a wheel, but for what describes it."""
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def files_of(folder, prefix=""):
    """What a folder of the checkout holds."""
    paths = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    names = {prefix + path.relative_to(ROOT / folder).as_posix() for path in paths}
    return {name for name in names if not any(cache in name for cache in CACHES)}


def test_a_wheel_has_all_that_is_read_and_nothing_else(wheel):
    assert inside(wheel) == files_of("src") | files_of("configs", "consistency/configs/")


def test_a_wheel_has_nothing_that_the_checkout_no_longer_has(wheel, tmp_path):
    checkout = copy_of_checkout(tmp_path / "checkout")
    gone = ["consistency/configs/net/mlp.yaml", "consistency/gone.py"]
    for name in gone:
        (checkout / "build" / "lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / "build" / "lib" / name).write_text("x = 1\n")
    (checkout / "configs" / "net" / "mlp.yaml").unlink()
    assert inside(wheel) - inside(build(checkout, tmp_path)) == {gone[0]}


def test_a_wheel_names_its_commands(wheel):
    (name,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("entry_points.txt"))
    text = zipfile.ZipFile(wheel).read(name).decode()
    for each in ("train", "eval"):
        assert f"consistency-{each} = consistency.{each}:main" in text


@pytest.mark.parametrize(("script", "module"), COMMANDS)
def test_a_command_is_repeated_as_it_is_typed_here(monkeypatch, tmp_path, script, module):
    monkeypatch.setattr(sys, "argv", [script, "seed=1"])
    spec = None if module is None else SimpleNamespace(name=module)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", spec)
    train, evaluation = COMMANDS[script, module]
    assert (" ".join(typed_entry("train")), " ".join(typed_entry("eval"))) == (train, evaluation)
    assert current_entry() == ("eval" if "eval" in script else "train")
    assert entry_name("train") == Path(train.split()[-1]).name
    (tmp_path / "result.json").write_text(json.dumps({"overrides": ["experiment=x"]}))
    assert command_of(tmp_path, ["seed=2"]) == f"{train} experiment=x seed=2"
    here = (train, evaluation)[current_entry() == "eval"]
    assert command_to_go_on(tmp_path) == f"{here} seed=1 run_dir={tmp_path}"
    ours = module is not None and module.startswith("consistency.")
    rest = ["-m", module] if ours else [str(Path(script).absolute())]
    assert program() == [sys.executable, *rest]


def test_an_installed_package_has_no_commit_of_a_repository_around_it(monkeypatch):
    assert configs.CHECKOUT == ROOT
    assert commit() is not None or not (ROOT / ".git").exists()
    monkeypatch.setattr(result, "CHECKOUT", None)
    assert commit() is None


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment with the wheel, which borrows the libraries of this one; and a directory to work in."""
    place = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place / "env"], check=True)
    pip = [sys.executable, "-m", "pip", "--python", place / "env" / "bin" / "python"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", wheel], check=True, env=cleaned())
    (site,) = (place / "env" / "lib").glob("python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")  # no .pth in there is read
    (place / "work").mkdir()
    return place


def cleaned():
    """The variables of this process, without one that leads to the checkout."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}


def call(installed, words, **env):
    """A command of the environment, which has to succeed; what it printed."""
    program, *rest = words
    done = subprocess.run(
        [installed / "env" / "bin" / program, *rest],
        cwd=installed / "work",
        env={**cleaned(), "OMP_NUM_THREADS": "1", **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


TRAIN = (["consistency-train"], ["python", "-m", "consistency.train"])
STEPS = [*SMALL, "trainer.max_steps=4", "trainer.val_check_interval=4", "curriculum=constant"]
EVALUATIONS = {
    "sample": ["task=sample", "task.count=4"],
    "fidelity": ["task=fidelity", "task.count=64"],
    "report": ["task=report", "task.ladder=null", "task.fidelity.count=64", "task.sample.count=4"],
    "page": ["task=export", "export=web", "task.batches=[1]"],
}


@pytest.mark.slow
def test_everything_works_where_there_is_no_checkout(installed):
    where = "import consistency.files.configs as c, hydra_plugins as h; print(c.CONFIGS, *h.__path__)"
    assert str(ROOT) not in call(installed, ["python", "-c", where])
    call(installed, ["consistency-train", *STEPS, "run_dir=one"])
    found = json.loads((installed / "work" / "one" / "result.json").read_text())
    assert found["commit"] is None
    for name, words in EVALUATIONS.items():
        call(installed, ["consistency-eval", *words, "ckpt_path=one", f"run_dir=eval/{name}"])
    assert (installed / "work" / "eval" / "report" / "report.html").is_file()
    assert [*(installed / "work" / "eval" / "page" / "web").glob("*.html")]


@pytest.mark.slow
@pytest.mark.parametrize("program", TRAIN, ids=" ".join)
def test_its_commands_start_themselves_again(installed, program):
    several = ["trainer=ddp_sim" if word == "trainer=cpu" else word for word in STEPS]
    call(installed, [*program, *several, f"run_dir=two-{len(program)}"])
    place = f"sweep-{len(program)}"
    call(installed, [*program, "-m", *STEPS, "seed=1,2", f"run_dir={place}"])
    assert len([*(installed / "work" / place).glob("*/result.json")]) == 2


@pytest.mark.slow
def test_the_example_works_with_it(installed):
    shutil.copytree(ROOT / "examples" / "my_method", installed / "elsewhere" / "my_method")
    env = {"PYTHONPATH": str(installed / "elsewhere")}
    small = ["trainer=cpu", "data.samples=64", "trainer.max_steps=4", "trainer.val_check_interval=4"]
    words = ["trust=[my_method]", "experiment=gated_digits", "curriculum=constant", *small, "run_dir=mine"]
    call(installed, ["consistency-train", *words], **env)
    sample = ["task=sample", "task.count=4", "ckpt_path=mine", "run_dir=eval/mine", "trust=[my_method]"]
    call(installed, ["consistency-eval", *sample], **env)
