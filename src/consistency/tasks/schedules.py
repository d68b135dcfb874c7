"""σ lists that were found for a checkpoint: kept beside it, and taken up for these weights and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from consistency.process.notices import notice
from consistency.sampling.samplers import Recipe, multistep
from consistency.tasks.schedule_file import Lists, merge, read
from consistency.tasks.session import Trained

REMEDY = "; found=false takes those of the run"  # behind the line on lists beside a checkpoint


def path_of(ckpt: Path) -> Path:
    """Where the lists of a checkpoint are: `last.schedule.json` beside `last.ckpt`."""
    return ckpt.with_suffix(".schedule.json")


def keep(ckpt: Path, weights_sha256: str, found: Lists) -> Path:
    """Add σ lists of these weights, by number of network calls, to those already there; see `merge`."""
    path = path_of(ckpt)
    merge(path, weights_sha256, found, "delete it, or say task.keep=false")
    return path


def check(ckpt: Path) -> None:
    """Refuse a damaged file before a search whose lists could not be kept in it.

    Raises:
        UserError: the file is damaged.
    """
    read(path_of(ckpt), "delete it, or say task.keep=false")


def found_for(ckpt: Path, weights_sha256: str, sigma_min: float) -> dict[str, Recipe]:
    """The samplers that were found for these weights, by name: `2step`.

    A file without lists of these weights, or without a checksum as old versions wrote it, is left alone,
    with a line.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(ckpt)
    kept = read(path, "delete it, or say found=false")
    if kept is None or (kept and weights_sha256 not in kept):
        reason = "has no checksum" if kept is None else "is of other weights"
        notice(f"{path} {reason} and was left alone: task=ladder finds new ones")
        return {}
    lists = kept.get(weights_sha256, {})
    return recipes_of({f"{n}step": each.sigmas for n, each in lists.items()}, sigma_min)


def recipes_of(lists: Mapping[str, Sequence[float]], sigma_min: float) -> dict[str, Recipe]:
    """Samplers of σ lists, by name."""
    return {
        name: partial(multistep, sigmas=[float(sigma) for sigma in sigmas], sigma_min=sigma_min)
        for name, sigmas in lists.items()
    }


def other_than(samplers: Mapping[str, Recipe], recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes whose σ are not those of the sampler of the same name."""
    return {name: recipe for name, recipe in recipes.items() if levels(samplers.get(name)) != levels(recipe)}


def taken_up(trained: Trained, recipes: Mapping[str, Recipe], source: Path, remedy: str = "") -> Trained:
    """The same with the run's own samplers replaced by those of their names; a line says which σ change.

    A sampler whose σ are the run's own stays the run's own.

    Args:
        trained: as it was opened.
        recipes: of σ lists, by name; a run names but some.
        source: the file that brings them.
        remedy: how to get the run's own, behind the line.
    """
    own, before = trained.module.samplers, trained.samplers
    changed = other_than(own, recipes)
    after = {name: changed.get(name, own[name]) if name in recipes else before[name] for name in own}
    lines = [
        f"{name} {shown(after[name])} in place of {shown(before[name])}" for name in other_than(before, after)
    ]
    if lines:
        notice(f"samplers use the σ lists of {source}: {'; '.join(lines)}{remedy}")
    return replace(trained, samplers=after, found={**trained.found, **recipes})


def distinct(own: Mapping[str, Recipe], name: str, recipe: Recipe, way: str = "found") -> str:
    """A name for numbers of a sampler: another than that of the run's own sampler if its σ differ.

    Args:
        own: samplers of the run, by name.
        name: of a sampler, such as `2step`.
        recipe: the sampler.
        way: how its σ list came about.
    """
    return f"{name}-{way}" if name in own and other_than(own, {name: recipe}) else name


def shown(recipe: Recipe) -> str:
    """σ of a sampler, in four digits."""
    return ", ".join(f"{sigma:.4g}" for sigma in levels(recipe) or ()) or "no list"


def levels(recipe: Recipe | None) -> list[float] | None:
    """σ of a sampler; None without any."""
    found = recipe.keywords.get("sigmas") if isinstance(recipe, partial) else None
    return None if found is None else [float(sigma) for sigma in found]
