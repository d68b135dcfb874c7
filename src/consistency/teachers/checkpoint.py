"""Checkpoints of this project, read as what they are: tensors and plain data, never code."""

from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.checkpoints import BEST, GOOD, LAST, newest, number_of, numbered
from consistency.files.config import FileConfig
from consistency.files.paths import A_CHECKPOINT
from consistency.files.upgrade import PREFIX
from consistency.model.maps import Map
from consistency.process.notices import notice
from consistency.quoting import path_argument
from consistency.teachers.counted import absent_average
from consistency.teachers.debugged import debug_of
from consistency.teachers.exported import SUFFIX, read_exported
from consistency.teachers.kept import checked_content
from consistency.teachers.sealed import DamagedError, read_sealed
from consistency.teachers.weights import outlined


def checkpoint(
    path: str | Path | None,
    weights: str | None = None,
    trust: Sequence[str] = (),
    debug: str | None = None,
) -> Map:
    """The model of a run, of any role.

    Args:
        path: a checkpoint, a file of exported weights, or the directory of a run, whose newest is taken.
        weights: an average by name, `raw`, or None for the one that validation saw.
        trust: packages whose classes its config may name beside ours.
        debug: option of debug/ that cuts the student's run short; None for one of full length.

    Raises:
        UserError: there is none, or it is damaged, or would call something foreign; or it is of a debug run,
            and the student's is none.
    """
    if path is None:
        raise UserError("teacher.path is not given: train a teacher, and name its run directory")
    file, kept = read_named(path, "teacher.path", trust)
    if debug is None and (cut := debug_of(kept["config"].content)):
        raise UserError(
            f"teacher.path={file} is of a debug run ({cut}), which is no teacher for an ordinary run: name "
            "another with teacher.path=PATH, or begin in a new run_dir where none is trained yet"
        )
    return map_of(kept["config"], kept, weights, file, "teacher.path")[1]


def map_of(
    config: FileConfig,
    kept: dict[str, Any],
    weights: str | None,
    file: Path,
    key: str = "ckpt_path",
) -> tuple[str, Map]:
    """The map of a file with the weights that are asked for, frozen; and the name of these.

    Args:
        config: of the file, whose section `model` is built; the user may have overridden values of it.
        kept: what `read_named` has read.
        weights: see `checkpoint`.
        file: for messages.
        key: of the config that names it.

    Raises:
        UserError: the file describes no map, lacks these weights, or holds those of another network.
    """
    name, state = weights_of(kept, weights)
    f = fitting(config, state, file, key)
    if not isinstance(f, Map):
        raise UserError(f"{key}={file} describes no model: use a checkpoint written by this project")
    check_averages(file, kept, f, key)
    f.load_state_dict(state)
    f.codec_sha256 = kept.get("data", {}).get("codec")
    return name, f.requires_grad_(False).eval()


def fitting(config: FileConfig, state: dict[str, Tensor], path: str | Path, key: str = "ckpt_path") -> Any:
    """The model that the config of a file describes, built once it is known to fit the file's weights.

    Args:
        config: of the file.
        state: its weights, which bound the memory that is taken.
        path: of the file, for messages.
        key: of the config that names it.

    Raises:
        UserError: names the first tensor that differs.
    """
    outline = outlined(lambda: config.build("model"))
    f = config.build("model") if outline is None else outline
    if isinstance(f, nn.Module):
        check_fits(path, state, f, key)
    return f if outline is None else config.build("model")


def of_run(directory: Path, key: str) -> tuple[Path, dict[str, Any]]:
    """The newest whole checkpoint of a run directory, and what it holds."""
    return whole_of(directory, key) or (directory, read_checkpoint(directory, key))


def of_file(path: Path, key: str) -> dict[str, Any]:
    """The content of a checkpoint, or of exported weights."""
    exported = path.suffix == SUFFIX and path.is_file()
    return read_exported(path, key) if exported else read_checkpoint(path, key)


def read_trained(path: str | Path, key: str = "ckpt_path", trust: Sequence[str] = ()) -> dict[str, Any]:
    """The content that `read_named` reads."""
    return read_named(path, key, trust)[1]


def read_named(
    path: str | Path, key: str = "ckpt_path", trust: Sequence[str] = ()
) -> tuple[Path, dict[str, Any]]:
    """What a run has learned, by its checkpoint or by exported weights, which no run can go on from.

    Args:
        path: the file, or the directory of a run, whose newest whole checkpoint is taken.
        key: of the config that names it, for messages.
        trust: packages whose classes its config may name beside ours.

    Returns:
        The file and its content.

    Raises:
        UserError: the file is refused, see `read_checkpoint`, or something that it says is.
    """
    path = Path(path)
    file, kept = of_run(path, key) if path.is_dir() else (path, of_file(path, key))
    return file, checked_content(kept, f"{key}={file}", trust)


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """The content of a checkpoint of ours. A file is untrusted input: tensors and plain containers only.

    Args:
        path: the file.
        key: of the config that names it, for messages.

    Raises:
        UserError: the file is missing, damaged, malformed, holds code or values that are not finite, or is
            not a checkpoint of this project; the newest other one beside it that is whole is named.
    """
    path = Path(path)
    if not path.is_file():
        what = "is a directory without checkpoints" if path.is_dir() else "no such file"
        raise UserError(f"{key}={path}: {what}; {A_CHECKPOINT}")
    if path.suffix == SUFFIX:
        raise UserError(
            f"{key}={path} holds weights alone, and no run can go on from them; to begin with them: "
            f"start=teacher {path_argument('teacher.path', path)}"
        )
    try:
        return read_sealed(path)
    except DamagedError as fault:
        raise UserError(f"{key}={path} {fault}; {remedy(path)}") from fault


def remedy(path: Path) -> str:
    """What to use in place of a checkpoint that is damaged: the newest other one of its directory."""
    found = next(whole_ones(path.parent, path), None)
    if found is None:
        return "no older checkpoint beside it is whole: use a checkpoint written by this project"
    return f"use the older checkpoint {found}, which is whole"


def check_fits(path: str | Path, state: dict[str, Tensor], module: nn.Module, key: str = "ckpt_path") -> None:
    """Refuse weights of another network, naming the first tensor that differs."""
    expected = module.state_dict()
    for name in sorted(expected.keys() | state.keys()):
        theirs, ours = (tuple(d[name].shape) if name in d else "absent" for d in (state, expected))
        if theirs != ours:
            raise UserError(
                f"{key}={path} is of another network: {name} is {theirs} there and {ours} here; "
                "use the experiment, net and data it was trained with"
            )


def check_averages(path: str | Path, kept: dict[str, Any], f: nn.Module, key: str = "ckpt_path") -> None:
    """Refuse averages that are not of all parameters of a denoiser: the rest would be raw weights.

    Args:
        path: the file, for messages.
        kept: what `read_trained` has read.
        f: the denoiser.
        key: of the config that names the file.

    Raises:
        UserError: names the first parameter that an average lacks.
    """
    if fault := absent_average(kept, f):
        raise UserError(f"{key}={path}: {fault}; {remedy(Path(path))}")


def newest_whole(directory: str | Path, key: str = "ckpt_path") -> Path | None:
    """The newest checkpoint of a run directory that is whole, or None where there is none at all.

    `last.ckpt` where it is whole: it alone is read then. Else the one of the highest step, and a line says
    so. Nothing is deleted.

    Args:
        directory: of the run.
        key: of the config that led here, for messages.

    Raises:
        UserError: there are checkpoints, and none is whole.
    """
    found = whole_of(directory, key)
    return None if found is None else found[0]


def whole_of(directory: str | Path, key: str) -> tuple[Path, dict[str, Any]] | None:
    """The same with its content."""
    first = newest(directory)
    if first is None:
        return None
    try:
        return first, read_sealed(first)
    except DamagedError as damage:
        found = next(whole_ones(first.parent, first), None)
        if found is None:
            raise UserError(
                f"{key}: {first} {damage}; no older checkpoint beside it is whole: begin anew in another "
                "run_dir"
            ) from damage
        notice(f"{first} {damage}; the newest that is whole is taken instead: {found}")
        return found, read_sealed(found)


def whole_ones(folder: Path, other_than: Path | None = None, most: float = inf) -> Iterator[Path]:
    """The whole checkpoints of a folder, the highest step first; each is read when its turn comes.

    Args:
        folder: of a run's checkpoints.
        other_than: one that is left out.
        most: the highest step.
    """
    steps: dict[Path, int] = {}
    for path in (folder / BEST, folder / GOOD, folder / LAST.name):
        step = step_of(path) if path.is_file() and path != other_than else None
        steps |= {} if step is None else {path: step}
    steps |= {path: number_of(path) for path in numbered(folder)}
    for path in sorted(steps, key=lambda path: steps[path], reverse=True):
        if path != other_than and steps[path] <= most and step_of(path) is not None:
            yield path


def step_of(path: Path) -> int | None:
    """The step of a checkpoint; None where it is not whole."""
    try:
        return read_sealed(path)["global_step"]
    except DamagedError:
        return None


def weights_of(checkpoint: dict[str, Any], name: str | None = None) -> tuple[str, dict[str, Tensor]]:
    """Name and weights of a denoiser: `raw`, an average, or by default the average that validation saw.

    Raises:
        UserError: the checkpoint has no such weights.
    """
    raw = {k.removeprefix(PREFIX): v for k, v in checkpoint["state_dict"].items() if k.startswith(PREFIX)}
    ema = checkpoint["callbacks"].get("EMA", {"averages": {}, "evaluate": "raw"})
    kept = ema["averages"] if "exported" in checkpoint else {"raw": {}, **ema["averages"]}
    name = str(name or ema["evaluate"])
    if name not in kept:
        raise UserError(f"weights={name} is not in the checkpoint, which has: {', '.join(kept)}")
    return name, {**raw, **kept[name]}
