"""σ lists that were found for a checkpoint: kept beside it, and taken up for these weights and no others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from consistency.errors import UserError, nearest
from consistency.library.opening import replace_sigmas, select_changed
from consistency.process.notices import notice
from consistency.sampling.families import samplers_of_lists
from consistency.sampling.samplers import Sampler
from consistency.tasks.measure.schedule_file import Lists, merge_lists, read_lists
from consistency.tasks.session import Trained

REMEDY = "; found=false takes those of the run"  # behind the line on lists beside a checkpoint


def path_of(ckpt: Path) -> Path:
    """Where the lists of a checkpoint are: `last.schedule.json` beside `last.ckpt`."""
    return ckpt.with_suffix(".schedule.json")


def keep_lists(ckpt: Path, weights_sha256: str, found: Lists) -> Path:
    """Add σ lists of these weights, by name of the sampler, to those already there; see `merge`."""
    path = path_of(ckpt)
    merge_lists(path, weights_sha256, found, "delete it, or say task.keep=false")
    return path


def check_schedule_file(ckpt: Path) -> None:
    """Refuse a damaged file before a search whose lists could not be kept in it.

    Raises:
        UserError: the file is damaged.
    """
    read_lists(path_of(ckpt), "delete it, or say task.keep=false")


def found_for(
    ckpt: Path, weights_sha256: str, own: Mapping[str, Sampler], sigma_min: float
) -> dict[str, Sampler]:
    """The samplers that were found for these weights, by name: `2step`.

    A file without lists of these weights, or without a checksum as old versions wrote it, is left alone,
    with a line.

    Args:
        ckpt: the checkpoint.
        weights_sha256: of the weights.
        own: samplers of the run, by name.
        sigma_min: ε of multistep sampling, where the run has one step alone.

    Raises:
        UserError: the file is damaged.
    """
    path = path_of(ckpt)
    kept = read_lists(path, "delete it, or say found=false")
    if kept is None or (kept and weights_sha256 not in kept):
        reason = "has no checksum" if kept is None else "is of other weights"
        notice(f"{path} {reason} and was left alone: task=ladder finds new ones")
        return {}
    lists = kept.get(weights_sha256, {})
    return samplers_of_lists({name: each.sigmas for name, each in lists.items()}, own, sigma_min)


def with_found(trained: Trained, found: Mapping[str, Sampler]) -> Trained:
    """The same with lists that lie beside the checkpoint, by name; a line says which σ change."""
    path = path_of(trained.provenance.path)
    samplers = replace_sigmas(trained.own, trained.samplers, found, str(path), REMEDY)
    return replace(trained, samplers=samplers, found={**trained.found, **found})


def distinct(own: Mapping[str, Sampler], name: str, sampler: Sampler, way: str = "found") -> str:
    """A name for numbers of a sampler: another than that of the run's own sampler if its σ differ.

    Args:
        own: samplers of the run, by name.
        name: of a sampler, such as `2step`.
        sampler: the sampler.
        way: how its σ list came about.
    """
    return f"{name}-{way}" if name in own and select_changed(own, {name: sampler}) else name


def chosen_samplers(trained: Trained, names: Sequence[str] | None) -> dict[str, Sampler]:
    """The samplers of these names, or those of the run."""
    known = {**trained.found, **trained.samplers}
    for name in names or ():
        if name not in known:
            remedy = f"{nearest(name, known)}{other_samplers(trained)}"
            raise UserError(f"task.samplers={name} is not a sampler of this model: {remedy}")
    return {name: known[name] for name in names or trained.samplers}


def other_samplers(trained: Trained) -> str:
    """Where more samplers may be found, for a message."""
    kept = not trained.follows and path_of(trained.provenance.path).is_file()
    return "; found=true adds those that task=ladder has found" if kept else ""
