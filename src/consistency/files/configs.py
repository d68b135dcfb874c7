"""The folders of configs: that of this project, and those of the packages that the command trusts.

In a checkout it is `configs/` beside `src/`; an installed package contains it. A package of
`trust=[package]` may have a folder `configs` too, whose files are options of the same groups, or of new ones.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from consistency.errors import UserError

NAME = "configs"  # of the folder, in every package
TARGET, PARTIAL = "_target_", "_partial_"  # keys of a node: what is called, and whether later
INSIDE = Path(__file__).parents[1] / NAME
CHECKOUT = None if INSIDE.is_dir() else Path(__file__).parents[3]
CONFIGS = INSIDE if CHECKOUT is None else CHECKOUT / NAME


@dataclass(frozen=True)
class Package:
    """A package that the user trusts.

    Args:
        name: dotted.
        places: its folders, several for a namespace package; the file of a module that is no package.
    """

    name: str
    places: tuple[Path, ...]

    @property
    def configs(self) -> tuple[Path, ...]:
        """Its folders of configs, without that of this project; most packages have none."""
        candidates = (place / NAME for place in self.places)
        return tuple(folder for folder in candidates if folder.is_dir() and folder != CONFIGS)

    def sources(self) -> Iterator[tuple[str, Path]]:
        """Its Python files with their paths inside it, in the same order on every machine."""
        for place in self.places:
            for path in sorted(place.rglob("*.py")) if place.is_dir() else (place,):
                yield path.relative_to(place if place.is_dir() else place.parent).as_posix(), path


_trusted: list[Package] = []  # set by the command of this process


def trust(names: Iterable[str]) -> None:
    """Add the configs of packages to those of this project, until the process ends or this is called again.

    Args:
        names: of packages; they replace those of a former call.

    Raises:
        UserError: there is no such package, or two configs have the same name.
    """
    found = [located(name) for name in dict.fromkeys(names)]
    check_names_differ(found)
    _trusted[:] = found


def trusted() -> tuple[Package, ...]:
    """The packages that the command of this process trusts."""
    return tuple(_trusted)


def located(name: str) -> Package:
    """Find a package without importing it; of a dotted name, the part before the last dot is imported.

    Raises:
        UserError: there is none.
    """
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise UserError(
            f"trust=[{name}]: Python finds no package {name}: install it, or put the folder that holds it "
            "into PYTHONPATH"
        )
    places = spec.submodule_search_locations or ([spec.origin] if spec.has_location and spec.origin else [])
    return Package(name, tuple(map(Path, places)))


def check_names_differ(packages: Iterable[Package]) -> None:
    """Refuse two configs with the same name, of which Hydra would silently use the first.

    Raises:
        UserError: names the second.
    """
    first = dict.fromkeys(names_in(CONFIGS), "")
    for package in packages:
        for folder in package.configs:
            for file in names_in(folder):
                if file in first:
                    whose = f"trust=[{first[file]}]" if first[file] else "this project"
                    raise UserError(
                        f"trust=[{package.name}]: {folder / file} has the name of a config of {whose}: "
                        "rename it"
                    )
                first[file] = package.name


def names_in(folder: Path) -> list[str]:
    """The paths of files in a folder of configs, relative to it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml"))


def folders() -> tuple[Path, ...]:
    """All folders of configs, that of this project first."""
    return (CONFIGS, *(folder for package in _trusted for folder in package.configs))


def files(group: str) -> list[Path]:
    """The files of a group, in all folders; in the order of their names."""
    return sorted(
        (path for folder in folders() for path in (folder / group).glob("*.yaml")),
        key=lambda path: (path.stem, path),
    )


def options(group: str) -> list[str]:
    """The options of a group."""
    return [path.stem for path in files(group)]


def file_of(name: str) -> Path:
    """The path of a config; where no folder has it, the path that it would have in this project.

    Args:
        name: `group/option`, or the name of an entry point.
    """
    paths = [folder / f"{name}.yaml" for folder in folders()]
    return next((path for path in paths if path.is_file()), paths[0])


def config_groups() -> tuple[str, ...]:
    """The groups of configs: the folders in folders of configs, without hydra/."""
    return groups_in(folders())


@lru_cache(maxsize=8)
def groups_in(parents: tuple[Path, ...]) -> tuple[str, ...]:
    """The groups of some folders of configs."""
    paths = (path for folder in parents for path in folder.iterdir())
    return tuple(dict.fromkeys(path.name for path in paths if path.is_dir() and is_group(path.name)))


def is_group(name: str) -> bool:
    """Whether a folder of this name is a group."""
    return name.isidentifier() and name != "hydra" and not name.startswith("_")
