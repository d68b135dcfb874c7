"""Other people's weights in our networks: every tensor in its place, or a refusal that names it."""

from collections.abc import Callable
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from consistency.errors import UserError
from consistency.files.paths import printable_path
from consistency.files.pickles import DAMAGE, is_zip, load_tensors
from consistency.teachers import archive
from consistency.teachers.contents import check_weights
from consistency.teachers.values import MalformedError

Module = TypeVar("Module", bound=nn.Module)
REMEDY = "choose the network it was trained with: net=..."


def existing_file(path: str | Path) -> Path:
    """The path of a file that is there.

    Raises:
        UserError: there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"teacher.path={path}: no such file; give a file of weights")
    return path


def damaged_weights(path: str | Path) -> UserError:
    """What to say of a file that ends early or makes no sense."""
    return UserError(f"teacher.path={path} is damaged or cut short and was not loaded; fetch it again")


def read_pt(path: str | Path) -> Any:
    """The content of a file of `torch.save`: tensors and plain containers only, mapped from disk.

    There is no checksum in it but the CRC-32 of an archive's members, which is compared.

    Raises:
        UserError: the file is missing, damaged, cut short, or holds code.
    """
    path = existing_file(path)
    zipped = is_zip(path)
    if zipped and (fault := archive.archive_fault(path, crc=True)):
        raise UserError(f"teacher.path={path} {fault}, and was not loaded; fetch it again")
    try:
        return load_tensors(path, mmap=zipped)
    except UnpicklingError as error:
        raise UserError(
            f"teacher.path={path} holds something other than tensors and plain data, or is damaged, and was "
            "not loaded; use the file as its authors published it"
        ) from error
    except DAMAGE as error:
        raise damaged_weights(path) from error


def rename_tensors(file: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a file under our names; one without keeps the file's, for `load_into` to refuse.

    Args:
        file: tensors under its names.
        names: {our name: its name}.
    """
    ours = {its: our for our, its in names.items()}
    return {ours.get(name, name): tensor for name, tensor in file.items()}


def spelled(net: nn.Module, modules: dict[str, str], leaves: dict[str, str] | None = None) -> dict[str, str]:
    """{our name: the file's name} for each tensor of `net`.

    Args:
        net: the network.
        modules: {our name: its name} of the modules that hold tensors.
        leaves: the same for the last part of a name, where the file has another word.
    """
    split = {name: name.rpartition(".")[::2] for name in net.state_dict()}
    words = leaves or {}
    return {name: f"{modules[m]}.{words.get(leaf, leaf)}" for name, (m, leaf) in split.items()}


def outlined(make: Callable[[], Module]) -> Module | None:
    """What `make` builds, with tensors that have shapes and no content: a file may describe a vast network.

    No random number of the caller is used up. None where a module looks into its tensors while it is built.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            return make()
    except NotImplementedError:
        return None


def load_into(
    net: nn.Module, state: dict[str, Tensor], path: str | Path | None, names: dict[str, str] | None = None
) -> None:
    """Load weights into `net`, in the precision that it has, all of them or none.

    Args:
        net: the network.
        state: tensors under our names.
        path: the file they come from, for messages; None if they come from a teacher at hand.
        names: what the file calls them, {our name: its name}; a name that is not there is ours.

    Raises:
        UserError: a tensor is missing, left over, of another shape, or not finite; named as in the file.
    """
    theirs, source = names or {}, weights_origin(path)
    check_shapes(net, state, path, names)
    try:
        check_weights({theirs.get(name, name): tensor for name, tensor in state.items()}, "tensor ")
    except MalformedError as fault:
        raise UserError(f"{source} {fault}; use other weights") from fault
    net.load_state_dict(state)


def weights_origin(path: str | Path | None) -> str:
    """Where weights come from, for messages."""
    return "the teacher" if path is None else f"teacher.path={path}"


def check_shapes(
    net: nn.Module, state: dict[str, Tensor], path: str | Path | None, names: dict[str, str] | None = None
) -> None:
    """Refuse tensors that are missing, left over, or of another shape; arguments are those of `load_into`."""
    theirs, ours, source = names or {}, net.state_dict(), weights_origin(path)
    for name in [*ours, *(n for n in state if n not in ours)]:
        in_file, here = shape(state.get(name)), shape(ours.get(name))
        if in_file != here:
            raise UserError(
                f"{source} is of another network: {printable_path(theirs.get(name, name))} is "
                f"{in_file} there and "
                f"{here} here; {REMEDY}"
            )


def shape(tensor: Tensor | None) -> str:
    """A tensor as a message shows it: its shape, and its type if it is not a number with a fraction."""
    if tensor is None:
        return "absent"
    kind = "" if tensor.is_floating_point() else f" {str(tensor.dtype).removeprefix('torch.')}"
    return f"{list(tensor.shape)}{kind}"
