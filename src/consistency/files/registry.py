"""The classes and functions that the config of a file may name: those in configs/ of this project.

Packages that the user trusts add their own, and those that their configs name. Whether a name is allowed is
decided before anything is imported.
"""

import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

from consistency.errors import UserError
from consistency.files.configs import CONFIGS
from consistency.files.configs import located as package_of
from consistency.files.paths import printable_path

UNBUILT = ("callbacks", "logger", "trainer")  # sections that are never built from a file
SAMPLERS = "samplers"  # a section whose keys are names chosen by the user
TEACHER = "teacher"  # the group whose functions read other files
TEACHERS = (("teacher",), ("module", "teacher"), ("module", "start"))  # the places of these functions
MODEL = "model"  # the section of the map
MAPS = frozenset(f"consistency.model.maps.{role}" for role in ("Denoiser", "Consistency", "FlowMap"))

Place = tuple[str, ...]  # keys from the root of a config, list indices among them


@dataclass(frozen=True)
class Registry:
    """The targets that may be built.

    Args:
        packages: that the user trusts beyond this project.
        given: targets that the user gave on the command line.
    """

    packages: tuple[str, ...] = ()
    given: frozenset[str] = frozenset()

    def allows(self, name: str, place: Place, deferred: bool) -> bool:
        """Whether a target is allowed at a place; nothing is imported to decide it.

        Args:
            name: dotted.
            place: of its node.
            deferred: whether the node is partial.
        """
        if name in self.given or self.trusts(name):
            return True
        if place and place[0] in UNBUILT:
            return True  # `FileConfig.build` never builds these sections
        if name in targets_at(place):
            return True
        if deferred and place in TEACHERS and name in targets_in_groups((TEACHER,)):
            return True
        return name in self.configured()

    def configured(self) -> frozenset[str]:
        """The targets in configs of trusted packages, including targets of others, without teachers."""
        folders = [folder for package in self.packages for folder in package_of(package).configs]
        files = (file for folder in folders for file in folder.glob("*/*.yaml"))
        return targets_in(file for file in files if file.parent.name not in (*UNBUILT, TEACHER))

    def trusts(self, name: str) -> bool:
        """Whether a name is public and inside a package that the user trusts."""
        inside = any(name.startswith(f"{package}.") for package in self.packages)
        return inside and all(part.isidentifier() and part[0] != "_" for part in name.split("."))

    def find(self, name: str) -> Callable[..., Any]:
        """Import the class or function of an allowed name; one of a trusted package must be defined in it.

        Raises:
            LookupError: there is none.
        """
        found = imported(name)
        ours = name in self.given or not self.trusts(name)
        home = f"{getattr(found, '__module__', '')}."
        if not callable(found) or not (ours or home.startswith(tuple(f"{p}." for p in self.packages))):
            raise LookupError(f"{name} is no class or function of its package")
        return found


def targets_at(place: Place) -> frozenset[str]:
    """The targets allowed at a place: under the key of a group, those of the group; elsewhere all of them."""
    if place == (MODEL,):
        return MAPS
    sampler = SAMPLERS in place[-2:]
    group = SAMPLERS if sampler else place[-1] if place else ""
    own = (
        targets_in_groups((group, "method") if sampler else (group,))
        if group in training_groups()
        else frozenset[str]()
    )
    return own & buildable_targets() or buildable_targets()


@lru_cache(maxsize=1)
def buildable_targets() -> frozenset[str]:
    """The targets of configs/ that may be built from a file, without teachers."""
    return targets_in_groups(tuple(group for group in training_groups() if group not in (*UNBUILT, TEACHER)))


@lru_cache(maxsize=8)
def targets_in_groups(chosen: tuple[str, ...]) -> frozenset[str]:
    """Every `_target_` in these groups of configs/."""
    return targets_in(path for group in chosen for path in (CONFIGS / group).glob("*.yaml"))


def targets_in(files: Iterable[Path]) -> frozenset[str]:
    """Every `_target_` in some files."""
    return frozenset(
        name
        for file in files
        for name in re.findall(r"^[\s-]*_target_:\s*(\S+)", file.read_text("utf-8"), re.M)
    )


@lru_cache(maxsize=1)
def training_groups() -> tuple[str, ...]:
    """The groups of configs/ in the defaults of train.yaml, without that of sweeps."""
    text = (CONFIGS / "train.yaml").read_text("utf-8")
    found = re.findall(r"^  - (\w+):", text, re.M)
    return tuple(group for group in found if group != "sweep")


def imported(name: str) -> Any:
    """Import the object of a dotted name.

    Raises:
        LookupError: there is none.
    """
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        home = ".".join(parts[:end])
        try:
            found = import_module(home)
        except ModuleNotFoundError as error:
            if error.name is not None and (home == error.name or home.startswith(f"{error.name}.")):
                continue
            raise
        for part in parts[end:]:
            found = getattr(found, part, None)
        if found is not None:
            return found
        break
    raise LookupError(f"there is no {name}")


def packages(trust: object) -> tuple[str, ...]:
    """The names of packages in `trust`.

    Raises:
        UserError: it is no list of names of packages.
    """
    listed: list[Any] = [None] if isinstance(trust, str) or not isinstance(trust, Iterable) else [*trust]
    for name in listed:
        if not isinstance(name, str) or not all(part.isidentifier() for part in name.split(".")):
            raise UserError(
                f"trust={printable_path(trust)} must be a list of Python packages, such as trust=[package]"
            )
    return tuple(listed)


def how_to_trust(name: str) -> str:
    """A hint how to trust the package of a target; empty for the standard library and this project."""
    package = name.partition(".")[0]
    known = package in sys.stdlib_module_names or package in ("consistency", "builtins")
    if known or not package.isidentifier() or "." not in name:
        return ""
    return f"; if you trust that package: trust=[{printable_path(package)}]"
