"""σ lists that were found for a checkpoint: kept beside it, for these weights and no others."""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from consistency.atomic import write_text
from consistency.errors import UserError
from consistency.sampling.samplers import Recipe, multistep


def path_of(ckpt: Path) -> Path:
    """Where the lists of a checkpoint are: `last.schedule.json` beside `last.ckpt`."""
    return ckpt.with_suffix(".schedule.json")


def keep(ckpt: Path, weights_sha256: str, found: Mapping[int, Sequence[float]]) -> Path:
    """Write down the σ lists by number of network calls; lists of other weights are forgotten."""
    path = path_of(ckpt)
    lists = {str(n): list(sigmas) for n, sigmas in sorted(found.items())}
    text = json.dumps({"weights_sha256": weights_sha256, "sigmas": lists}, indent=2) + "\n"
    write_text(path, text, shared=True)
    return path


def found_for(ckpt: Path, weights_sha256: str, sigma_min: float) -> dict[str, Recipe]:
    """The samplers that were found for these weights, by name: `2step`.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(ckpt)
    if not path.is_file():
        return {}
    try:
        kept = json.loads(path.read_text())
        lists = {int(n): [float(sigma) for sigma in sigmas] for n, sigmas in kept["sigmas"].items()}
        theirs = kept["weights_sha256"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: delete it, or say found=false") from error
    if theirs != weights_sha256:
        print(f"{path} is of other weights and was left alone: task=ladder finds new ones", file=sys.stderr)
        return {}
    return recipes_of({f"{n}step": sigmas for n, sigmas in lists.items()}, sigma_min)


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
