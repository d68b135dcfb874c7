"""The config in a file: plain data that are checked once and frozen, and the objects built from them.

A checkpoint is untrusted input, and so is its config. Objects are built from the frozen copy itself, without
OmegaConf and Hydra: nothing in it can be resolved, and nothing can change between check and building.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from consistency.errors import ArgumentError, UserError
from consistency.files.configs import PARTIAL, TARGET
from consistency.files.paths import printable_path
from consistency.files.registry import (
    TEACHER,
    TEACHERS,
    UNBUILT,
    Place,
    Registry,
    how_to_trust,
    packages,
    targets_in_groups,
)

DEPTH = 40
NODES = 100_000
TEXT = 10_000  # characters of a string
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # control characters and surrogates
WHOLE = 2**63  # bound of integers
CONSTRUCTOR_ERRORS = (  # raised by constructors for wrong arguments
    *(TypeError, ValueError, ArithmeticError, LookupError, AttributeError, RuntimeError),
    *(AssertionError, MemoryError, OSError),
)


@dataclass(frozen=True)
class FileConfig:
    """The config of a file: checked, and frozen.

    Args:
        source: the option and the file, for messages: `ckpt_path=FILE`.
        content: of read-only mappings, tuples, strings, numbers and None.
        registry: the targets that may be built.
    """

    source: str
    content: Mapping[str, Any]
    registry: Registry

    def to_plain(self) -> dict[str, Any]:
        """A copy as dicts and lists, which may be changed."""
        return thawed(self.content)

    def section(self, *keys: str) -> Mapping[str, Any]:
        """The section at these keys.

        Raises:
            UserError: there is none.
        """
        node: Any = self.content
        for key in keys:
            node = node.get(key) if isinstance(node, Mapping) else None
        if not isinstance(node, Mapping):
            raise UserError(
                f"{self.source} has no section {'.'.join(keys)} in its config: use a checkpoint written by "
                "this project"
            )
        return node

    def names(self, *keys: str) -> list[str]:
        """The keys of a section, none where there is no such section."""
        node: Any = self.content
        for key in keys:
            node = node.get(key, {}) if isinstance(node, Mapping) else {}
        return list(node) if isinstance(node, Mapping) else []

    def build(self, *keys: str, **extra: Any) -> Any:
        """Build the object that a section describes. Containers become dicts and lists.

        Args:
            *keys: of the section.
            **extra: arguments of its target, in place of those in the config.

        Raises:
            UserError: there is no such section, or a constructor refuses its arguments.
        """
        if keys[0] in UNBUILT:  # whose targets are not checked
            raise ValueError(f"{keys[0]} of a file is never built")
        node = self.section(*keys)
        own = {key: value for key, value in node.items() if key not in extra}
        return self._built(own, keys, extra)

    def _built(self, node: Any, place: Place, extra: Mapping[str, Any] = MappingProxyType({})) -> Any:
        if isinstance(node, tuple):
            return [self._built(child, (*place, str(i))) for i, child in enumerate(node)]
        if not isinstance(node, Mapping):
            return node
        children = {
            key: self._built(child, (*place, key))
            for key, child in node.items()
            if key not in (TARGET, PARTIAL)
        }
        if TARGET not in node:
            return children
        return self._called(node[TARGET], bool(node.get(PARTIAL)), {**children, **extra}, place)

    def _called(self, name: str, deferred: bool, arguments: dict[str, Any], place: Place) -> Any:
        try:
            target = self.registry.find(name)
            return partial(target, **arguments) if deferred else target(**arguments)
        except ArgumentError as error:
            raise UserError(
                f"{self.source}: {'.'.join(place)} in its config: {error}; use the checkpoint as it was "
                "written"
            ) from error
        except UserError:
            raise
        except (ImportError, *CONSTRUCTOR_ERRORS) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{self.source}: {'.'.join(place)} makes no {printable_path(name)} of this version "
                f"({reason[:300]}); "
                "use a checkpoint written by this version"
            ) from error


def checked_config(
    config: object, source: str, trust: Sequence[str] = (), given: Iterable[str] = ()
) -> FileConfig:
    """Check the config of a file: it must be plain data whose targets are in the registry.

    Args:
        config: anything.
        source: the option and the file, for messages: `ckpt_path=FILE`.
        trust: packages that the user trusts beyond this project.
        given: targets that the user gave on the command line.

    Raises:
        UserError: names the key that is refused, and the reason.
    """
    registry = Registry(packages(trust), frozenset(given))
    content = Checker(source, registry, tuple(trust)).frozen(config, ())
    if not isinstance(content, Mapping):
        raise UserError(f"{source} has a config that is no mapping: use a checkpoint written by this project")
    return FileConfig(source, content, registry)


class Checker:
    """Checks and freezes nested plain data.

    Args:
        source: of the config, for messages.
        registry: of targets.
        trust: value of the argument `trust` of teachers, which replaces the one in the file.
    """

    def __init__(self, source: str, registry: Registry, trust: tuple[str, ...]) -> None:
        self.source, self.registry, self.trust, self.nodes = source, registry, trust, 0

    def frozen(self, node: object, place: Place) -> Any:
        """A read-only copy of a node.

        Raises:
            UserError: something in it is refused.
        """
        self.nodes += 1
        if self.nodes > NODES or len(place) > DEPTH:
            raise self.refused(place[:4], f"is deeper than {DEPTH} levels or has more than {NODES:,} values")
        if type(node) is dict:
            return self._mapping(node, place)
        if type(node) is list:
            return tuple(self.frozen(child, (*place, str(i))) for i, child in enumerate(node))
        return self._leaf(node, place)

    def _mapping(self, node: dict[Any, Any], place: Place) -> Mapping[str, Any]:
        for key in node:
            self._check_key(key, node, place)
        if TARGET in node:
            self._check_target(node, place)
        children = {key: self.frozen(child, (*place, key)) for key, child in node.items()}
        if "trust" in children and (place in TEACHERS or node.get(TARGET) in targets_in_groups((TEACHER,))):
            children["trust"] = self.trust  # the user decides which packages to trust, not the file
        return MappingProxyType(children)

    def _check_key(self, key: object, node: dict[Any, Any], place: Place) -> None:
        if type(key) is not str or len(key) > TEXT:
            raise self.refused(place, f"has the key {printable_path(key)}, which is no text")
        self._check_text(key, place)
        special = key.startswith("_") and key.endswith("_")
        if special and not (key == TARGET or (key == PARTIAL and type(node[key]) is bool and TARGET in node)):
            raise self.refused(
                place, f"has the key {printable_path(key)}, which is not used in configs of a file"
            )

    def _check_target(self, node: dict[Any, Any], place: Place) -> None:
        name = node[TARGET]
        if type(name) is not str:
            raise self.refused(place, "has a _target_ that is no text")
        self._check_text(name, (*place, TARGET))
        if not self.registry.allows(name, place, node.get(PARTIAL) is True):
            raise UserError(
                f"{self.source} would call {printable_path(name)} ({dotted(place)}) and was not used: use a "
                f"checkpoint written by this project, with classes of its own{how_to_trust(name)}"
            )

    def _leaf(self, node: object, place: Place) -> Any:
        if node is None or type(node) in (bool, float):
            return node
        if type(node) is int and -WHOLE <= node < WHOLE:
            return node
        if type(node) is str and len(node) <= TEXT:
            self._check_text(node, place)
            return node
        raise self.refused(place, "is neither text nor a number of usual size")

    def _check_text(self, text: str, place: Place) -> None:
        if CONTROL.search(text):
            raise self.refused(place, f"holds control characters ({printable_path(text)})")
        if "${" in text or text == "???":
            what = "is missing" if text == "???" else "refers to something"
            raise self.refused(
                place, f"{what} ({printable_path(text)}), and configs of checkpoints hold plain values"
            )

    def refused(self, place: Place, what: str) -> UserError:
        """The error for a node that is refused."""
        return UserError(
            f"{self.source}: {dotted(place)} in its config {what}; use a checkpoint written by this project"
        )


def thawed(node: Any) -> Any:
    """A copy of plain data, frozen or not, as dicts and lists."""
    if isinstance(node, Mapping):
        return {key: thawed(child) for key, child in node.items()}
    return [thawed(child) for child in node] if isinstance(node, list | tuple) else node


def targets(node: object) -> Iterator[str]:
    """Every `_target_` in plain data."""
    if isinstance(node, Mapping):
        name = node.get(TARGET)
        yield from (name,) if isinstance(name, str) else ()
    children = node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else ()
    for child in children:
        yield from targets(child)


def dotted(place: Place) -> str:
    """A place in a config as a dotted key."""
    return ".".join(printable_path(key) for key in place)[:200] or "something"
