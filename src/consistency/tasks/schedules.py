"""σ lists that were found for a checkpoint: kept beside it, for these weights and no others."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from consistency.errors import UserError
from consistency.files.atomic import write_text
from consistency.files.checksum import content_sha256
from consistency.sampling.samplers import Recipe, multistep
from consistency.teachers.values import levels as levels_of


def path_of(ckpt: Path) -> Path:
    """Where the lists of a checkpoint are: `last.schedule.json` beside `last.ckpt`."""
    return ckpt.with_suffix(".schedule.json")


def keep(ckpt: Path, weights_sha256: str, found: Mapping[int, Sequence[float]]) -> Path:
    """Write down the σ lists by number of network calls; lists of other weights are forgotten."""
    path = path_of(ckpt)
    lists = {str(n): [float(sigma) for sigma in sigmas] for n, sigmas in sorted(found.items())}
    kept = {"weights_sha256": weights_sha256, "sigmas": lists}
    write_text(path, json.dumps({**kept, "sha256": content_sha256(kept)}, indent=2) + "\n", shared=True)
    return path


def found_for(ckpt: Path, weights_sha256: str, sigma_min: float) -> dict[str, Recipe]:
    """The samplers that were found for these weights, by name: `2step`.

    A file of other weights, or without a checksum as older versions wrote it, is left alone, with a line.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(ckpt)
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text())
        checksum, theirs, lists = kept.pop("sha256", None), kept["weights_sha256"], lists_of(kept["sigmas"])
        if checksum not in (None, content_sha256(kept)):
            raise ValueError("not what its checksum says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged: delete it, or say found=false") from error
    if checksum is None or theirs != weights_sha256:
        reason = "has no checksum" if checksum is None else "is of other weights"
        print(f"{path} {reason} and was left alone: task=ladder finds new ones", file=sys.stderr)
        return {}
    return recipes_of({f"{n}step": sigmas for n, sigmas in lists.items()}, sigma_min)


def lists_of(sigmas: Mapping[str, Sequence[float]]) -> dict[int, list[float]]:
    """σ lists by number of network calls, as a file has them.

    Raises:
        ValueError: a list of another length than it says, or one that is no list of falling σ above 0.
    """
    lists = {int(n): levels_of(f"sigmas.{n}", some) for n, some in sigmas.items()}
    if not all(len(some) == n for n, some in lists.items()):
        raise ValueError("no lists of σ")
    return lists


def recipes_of(lists: Mapping[str, Sequence[float]], sigma_min: float) -> dict[str, Recipe]:
    """Samplers of σ lists, by name."""
    return {
        name: partial(multistep, sigmas=[float(sigma) for sigma in sigmas], sigma_min=sigma_min)
        for name, sigmas in lists.items()
    }


def other_than(samplers: Mapping[str, Recipe], recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes whose σ are not those of the sampler of the same name."""
    return {name: recipe for name, recipe in recipes.items() if levels(samplers.get(name)) != levels(recipe)}


def levels(recipe: Recipe | None) -> list[float] | None:
    """σ of a sampler; None without any."""
    found = recipe.keywords.get("sigmas") if isinstance(recipe, partial) else None
    return None if found is None else [float(sigma) for sigma in found]
