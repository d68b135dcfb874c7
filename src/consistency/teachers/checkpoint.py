"""Reads checkpoints of this project: finding them in a run, verifying them, and building their maps."""

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
    """The map of a run, of any role, as a teacher.

    Args:
        path: a checkpoint, a file of exported weights, or a run directory, whose newest checkpoint is used.
        weights: name of an average, `raw`, or None for the average that validations used.
        trust: packages whose classes the config of the file may name, beside this one.
        debug: option of debug/ of the student's run; None for a run of full length.

    Raises:
        UserError: there is no file, it is damaged, or its config names code of another package; or it is of a
            debug run, and the student's run is not.
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
    """Build the map of a file, frozen; returns the name of its weights and the map.

    Args:
        config: of the file, with overrides of the user; its section `model` is built.
        kept: content of the file, as returned by `read_named`.
        weights: see `checkpoint`.
        file: for messages.
        key: of the config that names it.

    Raises:
        UserError: the file describes no map, lacks these weights, or has those of another network.
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
    """Build the model that the config of a file describes, after a check that the file's weights fit it.

    Args:
        config: of the file.
        state: its weights; as the model must fit them, they bound the memory that is used.
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
    """Path and content of the newest whole checkpoint of a run directory."""
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
    """Read a checkpoint or exported weights, for any use but resuming.

    Args:
        path: of the file, or of a run directory, whose newest whole checkpoint is used.
        key: of the config that names it, for messages.
        trust: packages whose classes the config of the file may name, beside this one.

    Returns:
        The file and its content.

    Raises:
        UserError: the file is refused, see `read_checkpoint`, or its config is.
    """
    path = Path(path)
    file, kept = of_run(path, key) if path.is_dir() else (path, of_file(path, key))
    return file, checked_content(kept, f"{key}={file}", trust)


def read_checkpoint(path: str | Path, key: str = "ckpt_path") -> dict[str, Any]:
    """The content of a checkpoint. A file is untrusted input: tensors and plain containers only.

    Args:
        path: of the file.
        key: of the config that names it, for messages.

    Raises:
        UserError: the file is missing, damaged, malformed, contains code or values that are not finite, or is
            no checkpoint of this project; names the newest other one beside it that is whole.
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
    """The remedy for a damaged checkpoint: the newest whole one of its directory."""
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
    """Refuse averages that lack a parameter of a map, which would then keep its raw value.

    Args:
        path: of the file, for messages.
        kept: content of the file.
        f: the map.
        key: of the config that names the file.

    Raises:
        UserError: names the first parameter that an average lacks.
    """
    if fault := absent_average(kept, f):
        raise UserError(f"{key}={path}: {fault}; {remedy(Path(path))}")


def newest_whole(directory: str | Path, key: str = "ckpt_path") -> Path | None:
    """The newest whole checkpoint of a run directory; None where there is no checkpoint.

    It is `last.ckpt` if that is whole, and no other is read then; else the one of the highest step, which a
    notice tells. Nothing is deleted.

    Args:
        directory: of the run.
        key: of the config that led here, for messages.

    Raises:
        UserError: there are checkpoints, but none is whole.
    """
    found = whole_of(directory, key)
    return None if found is None else found[0]


def whole_of(directory: str | Path, key: str) -> tuple[Path, dict[str, Any]] | None:
    """Path and content of the newest whole checkpoint; see `newest_whole`."""
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
    """Yield the whole checkpoints of a folder, the highest step first; each is read only when it is reached.

    Args:
        folder: of a run's checkpoints.
        other_than: a checkpoint to leave out.
        most: highest step allowed.
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
    """Name and weights of a map: `raw`, an average, or by default the average that validations used.

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
