"""The tensors in a folder of diffusers: in one file, in several with an index, or in half precision."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from consistency.errors import UserError
from consistency.files.paths import is_name, printable_path, regular
from consistency.files.pickles import DAMAGE
from consistency.process.notices import notice
from consistency.teachers.exported import SUFFIX
from consistency.teachers.weights import damaged_weights

STEM = "diffusion_pytorch_model"
WEIGHTS = f"{STEM}{SUFFIX}"
INDEX = f"{WEIGHTS}.index.json"
LONGEST = 2**24  # bytes of a JSON file
MOST = 1000  # shards
HALVES = ("fp16", "bf16")  # variants whose numbers are those of the whole, rounded

Content = tuple[dict[str, Tensor], dict[str, str]]  # tensors, metadata


def read_weights(folder: Path) -> Content:
    """Tensors and metadata of the weights in a folder.

    Raises:
        UserError: there are none, or two sets of them, or they are damaged.
    """
    whole, index = folder / WEIGHTS, folder / INDEX
    if whole.is_file() and index.is_file():
        raise UserError(
            f"teacher.path={folder} holds {WEIGHTS} and {INDEX}, two sets of weights: remove one of them"
        )
    if index.is_file():
        return read_shards(folder, weight_map(index)), {}
    return read_safetensors(whole if whole.is_file() else variant(folder))


def variant(folder: Path) -> Path:
    """The file in half precision, if there is no other.

    Raises:
        UserError: there is none, or only files that are not read.
    """
    found = sorted(p.name for p in folder.glob(f"{STEM}*") if p.is_file())
    halves = [name for name in HALVES if f"{STEM}.{name}{SUFFIX}" in found]
    if halves:
        notice(
            f"teacher.path={folder}: there are no weights but those of {halves[0]}, rounded to half precision"
        )
        return folder / f"{STEM}.{halves[0]}{SUFFIX}"
    raise UserError(f"teacher.path={folder / WEIGHTS}: no such file; {remedy_for_shards(found)}")


def remedy_for_shards(found: list[str]) -> str:
    """The remedy for a folder that has only these files of weights."""
    if any(name.endswith((".bin", ".ckpt", ".msgpack", ".h5")) for name in found):
        return (
            "a .bin may hold code and is not read: fetch the .safetensors of the same page, or save the "
            "tensors of the .bin with safetensors.torch.save_file"
        )
    if any(name.endswith(SUFFIX) for name in found):
        return (
            f"{printable_path(found[0])} is of another kind, or a shard without {INDEX}: fetch "
            f"{WEIGHTS}, or all "
            "shards with their index"
        )
    return "fetch the .safetensors of the network, with the folder that it lies in"


def weight_map(index: Path) -> dict[str, str]:
    """{tensor: file} of an index. Its names are untrusted: only files of the folder are allowed.

    Raises:
        UserError: it is damaged, or names something else.
    """
    files = read_json_object(index).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise damaged_weights(index)
    for name in files.values():
        if not is_name(name) or not name.endswith(SUFFIX):
            raise UserError(
                f"teacher.path={index}: '{printable_path(name)}' is not the name of a shard in its "
                "folder; use the "
                "folder as published"
            )
    if len(set(files.values())) > MOST:
        raise UserError(f"teacher.path={index} names more than {MOST} shards; use the folder as published")
    return files


def read_shards(folder: Path, files: Mapping[str, str]) -> dict[str, Tensor]:
    """All tensors of an index, each from the file that it names.

    Raises:
        UserError: a file lacks a tensor, or holds one that the index does not give to it.
    """
    state: dict[str, Tensor] = {}
    for name in dict.fromkeys(files.values()):
        if not (folder / name).is_file():
            raise UserError(f"teacher.path={folder} lacks {name}, a shard of its weights: fetch it as well")
        found = read_safetensors(folder / name)[0]
        said = {tensor for tensor, file in files.items() if file == name}
        for tensor in sorted(said ^ found.keys()):
            where = "lacks" if tensor in said else f"holds, which {INDEX} does not say,"
            raise UserError(
                f"teacher.path={folder / name} {where} {printable_path(tensor)}: fetch the shards again"
            )
        state |= found
    return state


def read_json_object(file: Path) -> dict[str, Any]:
    """The object in a JSON file."""
    try:
        if file.stat().st_size > LONGEST:
            raise damaged_weights(file)
        content = json.loads(regular(file).read_text("utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise damaged_weights(file) from error
    if not isinstance(content, dict):
        raise damaged_weights(file)
    return content


def read_safetensors(file: Path) -> Content:
    """Tensors and metadata of a file.

    Raises:
        UserError: it is damaged.
    """
    try:
        with safe_open(file, "pt") as content:
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return state, content.metadata() or {}
    except (SafetensorError, *DAMAGE) as error:
        raise damaged_weights(file) from error
