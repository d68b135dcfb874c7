"""The σ lists that ladders found for a checkpoint: stored beside it and used for these weights only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from consistency.errors import UserError, nearest
from consistency.library.opening import replace_sigmas, select_changed
from consistency.process.notices import notice
from consistency.sampling.families import samplers_of_lists
from consistency.sampling.samplers import Sampler
from consistency.tasks.schedule_file import SigmaLists, merge_lists, read_lists
from consistency.tasks.session import Trained

REMEDY = "; found=false takes those of the run"  # end of the notice about lists beside a checkpoint


def schedule_path(ckpt: Path) -> Path:
    """The file with the lists of a checkpoint: `last.schedule.json` beside `last.ckpt`."""
    return ckpt.with_suffix(".schedule.json")


def keep_lists(ckpt: Path, weights_sha256: str, found: SigmaLists) -> Path:
    """Add σ lists of these weights, by name of the sampler, to the file beside the checkpoint.

    Returns:
        The path of the file; see `merge_lists` for the lists that stay and the errors.
    """
    path = schedule_path(ckpt)
    merge_lists(path, weights_sha256, found, "delete it, or say task.keep=false")
    return path


def check_schedule_file(ckpt: Path) -> None:
    """Check, before a search, that its lists can be added to the file.

    Raises:
        UserError: the file is damaged.
    """
    read_lists(schedule_path(ckpt), "delete it, or say task.keep=false")


def read_found_samplers(
    ckpt: Path, weights_sha256: str, own: Mapping[str, Sampler], sigma_min: float
) -> dict[str, Sampler]:
    """The samplers with the lists found for these weights, by name, such as `2step`.

    A file without lists of these weights, or one of an old version without a checksum, is not used, and a
    notice says so.

    Args:
        ckpt: path of the checkpoint.
        weights_sha256: of its weights.
        own: samplers of the run, by name; the lists are given to samplers of their families.
        sigma_min: ε of multistep sampling, if the run only has a one-step sampler.

    Raises:
        UserError: the file is damaged.
    """
    path = schedule_path(ckpt)
    kept = read_lists(path, "delete it, or say found=false")
    if kept is None or (kept and weights_sha256 not in kept):
        reason = "has no checksum" if kept is None else "is of other weights"
        notice(f"{path} {reason} and was left alone: task=ladder finds new ones")
        return {}
    lists = kept.get(weights_sha256, {})
    return samplers_of_lists({name: each.sigmas for name, each in lists.items()}, own, sigma_min)


def use_found_lists(trained: Trained, found: Mapping[str, Sampler]) -> Trained:
    """The model with the samplers found for it, by name, in place of its own; a notice lists the changed σ.

    Args:
        trained: the model.
        found: as `read_found_samplers` returns them.
    """
    path = schedule_path(trained.provenance.path)
    samplers = replace_sigmas(trained.own, trained.samplers, found, str(path), REMEDY)
    return replace(trained, samplers=samplers, found={**trained.found, **found})


def distinct_name(own: Mapping[str, Sampler], name: str, sampler: Sampler, suffix: str = "found") -> str:
    """The name for a sampler's numbers: `name`, or `name-suffix` if the run's sampler `name` has other σ.

    Args:
        own: samplers of the run, by name.
        name: of the sampler, such as `2step`.
        sampler: the sampler.
        suffix: the origin of its σ list.
    """
    return f"{name}-{suffix}" if name in own and select_changed(own, {name: sampler}) else name


def chosen_samplers(trained: Trained, names: Sequence[str] | None) -> dict[str, Sampler]:
    """The samplers of these names; without names, those of the run.

    Raises:
        UserError: a name is not known.
    """
    known = {**trained.found, **trained.samplers}
    for name in names or ():
        if name not in known:
            unused = not trained.use_found and schedule_path(trained.provenance.path).is_file()
            more = "; found=true adds those that task=ladder has found" if unused else ""
            raise UserError(
                f"task.samplers={name} is not a sampler of this model: {nearest(name, known)}{more}"
            )
    return {name: known[name] for name in names or trained.samplers}
