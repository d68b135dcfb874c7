"""Which versions are supported: what pyproject.toml asks for is installed, safe, declared and documented."""

import ast
import re
import sys
import tomllib
from importlib.metadata import version
from itertools import chain

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from consistency import console
from consistency.errors import UserError
from consistency.process import supported
from consistency.process.supported import SAFE, check_supported, release
from tests.conftest import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
README = (ROOT / "README.md").read_text()
EXTRAS = PROJECT["optional-dependencies"]
# Of extras that `make` does not install.
ABSENT = {"tensorrt", "deepinv", "jupyterlab", "nbconvert", "ipykernel", "wandb", "mlflow"}

# Known holes: the package, the first version without them, and what they are. Not among them is CVE-2025-3000
# (torch before 2.13): it takes source code of the attacker in torch.jit.script, which nothing here calls.
HOLES = [
    (
        "lightning",
        "2.6.6",
        "CVE-2026-58659: a checkpoint names a module that is imported",
    ),
    ("torch", "2.6.0", "CVE-2025-32434: code from a file, despite weights_only"),
    ("torch", "2.10.0", "CVE-2026-24747: memory corrupted by a file, despite weights_only"),
    ("pillow", "12.2.0", "CVE-2026-25990, CVE-2026-40192: a write out of bounds (PSD), a bomb (FITS)"),
    ("pillow", "12.3.0", "CVE-2026-59197, CVE-2026-59205 and others: writes out of bounds; bombs"),
    (
        "pillow",
        "13.0.0",
        "CVE-2026-96639, CVE-2026-96643: a write out of bounds (GIF), an endless loop (Exif)",
    ),
    ("filelock", "3.20.1", "CVE-2025-68146: a symlink in place of the lock truncates another file"),
    ("filelock", "3.20.3", "CVE-2026-22701: the same of SoftFileLock"),
    ("onnx", "1.21.0", "CVE-2026-27489, CVE-2026-34445, CVE-2026-34446: files outside a model's folder"),
    ("scikit-learn", "1.5.0", "CVE-2024-5206: TfidfVectorizer keeps the text that it was fitted to"),
    ("pytest", "9.0.3", "CVE-2025-71176: a directory in /tmp whose name others can guess"),
    ("setuptools", "78.1.1", "CVE-2025-47273: a download is written outside its folder"),
    ("setuptools", "83.0.0", "CVE-2026-59890: files that MANIFEST.in leaves out get into an archive"),
]
TABLE = re.compile(r"^\| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)  # a row of README's table


def requirements():
    """Every requirement of pyproject.toml, those for building and of extras among them, by name."""
    lines = chain(PYPROJECT["build-system"]["requires"], PROJECT["dependencies"], *EXTRAS.values())
    found = map(Requirement, lines)
    return {canonicalize_name(r.name): r for r in found if r.name != PROJECT["name"]}


REQUIRED = requirements()


def floor(name):
    (least,) = [s.version for s in REQUIRED[name].specifier if s.operator == ">="]
    return Version(least)


@pytest.mark.parametrize("name", sorted(REQUIRED.keys() - ABSENT - {"setuptools"}))
def test_what_is_installed_is_supported(name):
    assert Version(version(name)) in REQUIRED[name].specifier


@pytest.mark.parametrize("name", sorted(REQUIRED))
def test_every_requirement_says_from_which_version_on(name):
    assert floor(name)


@pytest.mark.parametrize(("name", "fixed", "hole"), HOLES, ids=lambda value: str(value).partition(":")[0])
def test_no_version_with_a_known_hole_is_supported(name, fixed, hole):
    assert floor(name) >= Version(fixed), hole


def test_python_is_what_the_readme_says():
    said = re.search(r"Python (\S+) and torch (\S+) or newer", README)
    assert said is not None
    assert PROJECT["requires-python"] == f">={said[1]}"
    assert floor("torch") == Version(said[2])
    assert sys.version_info[:2] >= tuple(map(int, said[1].split(".")))


def documented():
    """Library -> what the README says it is for."""
    section = README.partition("## What each library does here")[2]
    rows = [row for row in TABLE.findall(section) if row[0] not in {"library", "---"}]
    return {canonicalize_name(name.strip()): purpose for names, purpose in rows for name in names.split(",")}


def test_the_readme_names_every_library_and_no_other():
    assert documented().keys() == REQUIRED.keys() - {"setuptools"}


@pytest.mark.parametrize("extra", sorted(EXTRAS))
def test_the_readme_says_which_extra_brings_a_library(extra):
    brought = {canonicalize_name(Requirement(line).name) for line in EXTRAS[extra]} - {PROJECT["name"]}
    assert brought == {name for name, purpose in documented().items() if purpose.startswith(f"`[{extra}]`")}


MODULES = {"scikit-learn": "sklearn", "pillow": "PIL", "hydra-core": "hydra"}  # named unlike their package
BROUGHT = {
    "scipy": "scikit-learn",
    "google": "tensorboard",
    "sqlalchemy": "optuna",
}  # a module -> the declared package that always brings it


def imported(path):
    tree = ast.parse(path.read_text())
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return {name.partition(".")[0] for name in names}


def test_the_code_imports_nothing_that_is_not_declared():
    declared = {MODULES.get(name, name.replace("-", "_")) for name in REQUIRED}
    declared |= {module for module, bringer in BROUGHT.items() if bringer in REQUIRED}
    files = [*(ROOT / "src").rglob("*.py"), ROOT / "train.py", ROOT / "eval.py"]
    found = {name: path for path in files for name in imported(path)}
    strange = found.keys() - declared - set(sys.stdlib_module_names) - {PROJECT["name"], "__future__"}
    assert {name: str(found[name]) for name in strange} == {}


def test_what_is_refused_at_run_time_is_refused_by_pip_too():
    for name, (safe, _) in SAFE.items():
        assert floor(name) >= Version(safe)
        assert (name, safe) in {(package, fixed) for package, fixed, _ in HOLES}


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("2.6.6", (2, 6, 6)), ("2.15.0a0+git12", (2, 15, 0)), ("2.13+cpu", (2, 13, 0)), ("12", (12, 0, 0))],
)
def test_versions_are_compared_by_their_numbers(text, numbers):
    assert release(text) == numbers


def test_old_libraries_are_refused_before_anything_is_opened(monkeypatch, capsys):
    old = {"lightning": "2.6.5"}
    monkeypatch.setattr(supported, "version", lambda name: old.get(name, version(name)))
    with pytest.raises(UserError, match=r"lightning 2\.6\.5 .*: pip install -U 'lightning>=2\.6\.6'$"):
        check_supported()
    with pytest.raises(SystemExit) as ended:
        console.guarded(lambda: pytest.fail("it was run"))
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: lightning 2.6.5 runs code from checkpoints")


def test_windows_is_refused_before_anything_is_imported(monkeypatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(UserError, match="WSL2"):
        check_supported()


def test_a_library_that_is_not_there_is_left_to_its_import(monkeypatch):
    def missing(name):
        raise supported.PackageNotFoundError(name)

    monkeypatch.setattr(supported, "version", missing)
    check_supported()
