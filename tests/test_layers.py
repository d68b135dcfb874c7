"""Arrows point down only: what each floor of the house may import, and how far down a chain may go."""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src" / "consistency"

FLOORS = [  # from the ground up; a floor may use itself and all below
    {"errors", "tensor", "process", "watch", "markup", "table", "quoting"},
    {"files"},
    {"nets", "model"},
    {"schedule"},
    {"codec"},
    {"objectives", "sampling", "truth", "data", "edits"},
    {"metrics", "export", "teachers", "library"},
    {"lit"},
    {"tasks", "result", "sweep", "schema", "command"},
    {"teach", "continuation"},
    {"build", "console"},
    {"debug", "fit", "resume", "summary", "reopen", "others"},
    {"run"},
    {"evaluate"},
    {"train", "eval"},
]
ABOVE_TORCH = {"lightning", "hydra", "omegaconf", "tensorboard", "torchmetrics"}
LIGHTNING = {"lit", "build", "fit", "summary", "run", "evaluate", "tasks"}
LONGEST = 10  # modules of a chain of imports
NETS = {"consistency", "torch", "einops"}


def floor(room: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room in rooms)


def imports(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
    return found | {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}


FILES = sorted(p for p in SRC.rglob("*.py") if p != SRC / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_a_file_imports_only_from_its_floor_and_below(path):
    room = path.relative_to(SRC).parts[0].removesuffix(".py")
    for module in imports(path):
        top, *rest = module.split(".")
        if top == "consistency" and rest:
            assert floor(rest[0]) <= floor(room), f"{room} imports {module}"
            if rest[0] != room:
                assert floor(rest[0]) < floor(room) or floor(room) == floor(rest[0]) <= floor("tasks")
        if top in ABOVE_TORCH:
            assert floor(room) >= floor("metrics"), f"{room} imports {module}"
        if top == "lightning":
            assert room in {"lit", "build", "fit", "summary", "run", "evaluate", "tasks"}, (
                f"{room} imports {module}"
            )


def test_nets_know_nothing_but_torch():
    for path in (SRC / "nets").glob("*.py"):
        outside = {m.split(".")[0] for m in imports(path)} - NETS
        assert outside <= {"math", "collections", "functools", "typing", "contextlib", "dataclasses"}, path


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SRC)))
def test_no_room_is_too_large_and_no_method_is_chosen_by_a_string(path):
    text = path.read_text()
    assert text.count("\n") <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno - node.lineno < 45, node.name
        if isinstance(node, ast.If) and isinstance(node.test, ast.Compare):
            names = {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
            names |= {n.attr for n in ast.walk(node.test) if isinstance(n, ast.Attribute)}
            strings = any(
                isinstance(n, ast.Constant) and isinstance(n.value, str) for n in ast.walk(node.test)
            )
            methods = {"method", "mode", "kind", "objective", "loss_type", "schedule", "distance", "solver"}
            assert not (strings and names & methods), f"line {node.lineno}"


MODULES = {
    ".".join(path.relative_to(SRC.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in SRC.rglob("*.py")
}


def imported_at_once(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Modules of ours that are imported when a module is: not in functions, and not for types alone."""
    for node in body:
        if isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.dump(node.test):
            yield from imported_at_once([*node.body, *node.orelse])
        elif isinstance(node, ast.Try):
            yield from imported_at_once(node.body)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            inside = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in MODULES else node.module for name in inside)


@cache
def longest_chain(module: str) -> tuple[str, ...]:
    """The longest chain of imports that begins with a module."""
    below = {*imported_at_once(ast.parse(MODULES[module].read_text()).body)} - {module}
    return (module, *max((longest_chain(name) for name in sorted(below)), key=len, default=()))


def test_no_chain_of_imports_is_long():
    chain = max((longest_chain(module) for module in MODULES), key=len)
    assert len(chain) <= LONGEST, f"{len(chain)} modules import each other in a row:\n" + "\n".join(chain)
