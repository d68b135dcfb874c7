"""Reads `.pkl` files of EDM and ECT as data. A pickle is a program, which may call only safe functions here.

Such a file stores each module as a call of a function that executes the source code beside it. Here the
call keeps the class name and the state, and drops the source. What a word of the table makes is sealed: a
file can look up, call or change nothing that is not of this page.
"""

import io
import pickle
import re
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.files.paths import printable_path
from consistency.files.pickles import DAMAGE, check_pickle, is_zip, load_tensors
from consistency.teachers import archive
from consistency.teachers.weights import damaged_weights, existing_file

SCALARS = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])


class Sealed:
    """A value that a pickle may pass on but not access. It has no state that a pickle could set."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("state for something that has none")


class Word(Sealed):
    """A function of the table, callable by the pickle, with no attribute to change."""

    __slots__ = ()

    def __call__(self, *args: Any) -> Any:
        """Call the function with plain data."""
        return self.value(*args)


class ModuleRecord:
    """A module in a file: the name of its class, and its state.

    Attributes:
        name: of the class; empty for torch's own containers.
        state: what its `__dict__` was.
    """

    __slots__ = ("name", "state")

    def __new__(cls, name: str = "", state: dict[str, Any] | None = None) -> "ModuleRecord":
        """Built with no arguments by pickles, which fill it by `__setstate__`."""
        self = super().__new__(cls)
        self.name, self.state = str(name), {}
        self.__setstate__({} if state is None else state)
        return self

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict):
            raise pickle.UnpicklingError("a module whose state is no dict")
        self.state = state

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Names and values of all parameters and buffers, as in a state_dict."""
        for name, kept in {**self.state["_parameters"], **self.state["_buffers"]}.items():
            if kept is not None:
                yield prefix + name, unsealed(kept, Tensor)
        for name, module in self.state["_modules"].items():
            if module is not None:
                yield from module.tensors(f"{prefix}{name}.")


class Plain(dict):
    """An OrderedDict or EasyDict, without the attributes that an instance of either could be given."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        if state:
            raise pickle.UnpicklingError("attributes for a dict")


class DType:
    """numpy's dtype of a number."""

    __slots__ = ("code",)

    def __new__(cls, code: str = "", *_: Any) -> "DType":
        """A number of a fixed size, or nothing."""
        if code not in SCALARS:
            raise pickle.UnpicklingError("not the type of a number")
        self = super().__new__(cls)
        self.code = code
        return self

    def __setstate__(self, state: Any) -> None:
        self.code = {"<": "<", "|": "", ">": ">"}[state[1]] + self.code[-2:]


def unsealed(sealed: Any, kind: type) -> Any:
    """What `sealed` holds, which must be of this kind."""
    if not isinstance(sealed, Sealed) or not isinstance(sealed.value, kind):
        raise pickle.UnpicklingError(f"no {kind.__name__} where one belongs")
    return sealed.value


def record(meta: dict[str, Any]) -> ModuleRecord:
    """A module of EDM, without its source code."""
    return ModuleRecord(meta["class_name"], meta["state"])


def method(owner: ModuleRecord, name: str) -> Sealed:
    """A method of a module, which ECT's losses keep: its name alone. Nothing is looked up in anything."""
    if type(owner) is not ModuleRecord or type(name) is not str:
        raise pickle.UnpicklingError("a method of something other than a module")
    return Sealed(name)


def numpy_number(dtype: DType, data: bytes) -> float:
    """A number of numpy's as Python's."""
    if type(dtype) is not DType or type(data) is not bytes:
        raise pickle.UnpicklingError("a number of neither type nor bytes")
    (value,) = np.frombuffer(data, dtype.code).tolist()
    return value


def tensor(storage: Sealed, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Sealed:
    """A view into a storage; torch refuses one that reaches past its end."""
    return Sealed(torch.as_strided(unsealed(storage, Tensor), size, stride, offset))


def unwrap_parameter(data: Sealed, *_: Any) -> Sealed:
    """A parameter is its tensor."""
    return Sealed(unsealed(data, Tensor))


def read_storage(path: Path, data: bytes) -> Sealed:
    """The numbers of a storage, flat. They come as a file within the file, read with equal suspicion."""
    try:
        if is_zip(io.BytesIO(data)) and archive.archive_fault(io.BytesIO(data), crc=True):
            raise damaged_weights(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch deprecates the storages that it still writes
            found = load_tensors(io.BytesIO(data))
            if not isinstance(found, torch.storage.TypedStorage):
                raise pickle.UnpicklingError("something other than a storage")
            flat = torch.empty(0, dtype=found.dtype).set_(found.untyped())
    except pickle.UnpicklingError as error:
        name = re.search(r"GLOBAL (\S+)", str(error))
        raise refuse_name(
            path, name[1] if name else "something other than numbers in place of a tensor"
        ) from error
    return Sealed(flat)


def allowed_names(path: Path) -> dict[tuple[str, str], Any]:
    """All that a pickle may name, made anew for each file: {(module, name): what it gets instead}."""
    functions: dict[tuple[str, str], Callable[..., Any]] = {
        ("torch_utils.persistence", "_reconstruct_persistent_obj"): record,
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): unwrap_parameter,
        ("torch.storage", "_load_from_bytes"): partial(read_storage, path),
        ("builtins", "getattr"): method,
        ("numpy.core.multiarray", "scalar"): numpy_number,
        ("numpy._core.multiarray", "scalar"): numpy_number,
    }
    return {name: Word(function) for name, function in functions.items()} | {
        ("torch.nn.modules.container", "ModuleDict"): ModuleRecord,
        ("collections", "OrderedDict"): Plain,
        ("dnnlib.util", "EasyDict"): Plain,
        ("builtins", "set"): set,
        ("numpy", "dtype"): DType,
    }


def refuse_name(path: Path, name: str) -> UserError:
    """What to say of a file that names anything else."""
    return UserError(
        f"teacher.path={path} would call {printable_path(name)} and was not loaded; use the file as published"
    )


class Reader(pickle.Unpickler):
    """An unpickler that knows the words of the table and no others.

    Args:
        file: open for reading.
        path: of the file, for messages.
    """

    def __init__(self, file: io.BufferedReader, path: Path) -> None:
        super().__init__(file)
        self.path, self.words = path, allowed_names(path)

    def find_class(self, module: str, name: str) -> Any:
        """The harmless namesake of a global.

        Raises:
            UserError: there is none.
        """
        if (module, name) not in self.words:
            raise refuse_name(self.path, f"{module}.{name}")
        return self.words[module, name]


def read_pkl(path: str | Path) -> Any:
    """The content of a file of EDM's: plain data, with a `ModuleRecord` for each module. Nothing "
    "of it is executed.

    Raises:
        UserError: the file is missing, damaged, or names anything that such files do not need.
    """
    path = existing_file(path)
    if is_zip(path):
        raise UserError(
            f"teacher.path={path} is an archive of torch.save, such as training-state-*.pt, whose network is "
            "no average: use the network-snapshot-*.pkl beside it"
        )
    try:
        with path.open("rb") as file:
            check_pickle(file)
            file.seek(0)
            return Reader(file, path).load()
    except UserError:
        raise
    except (pickle.UnpicklingError, *DAMAGE) as error:
        raise damaged_weights(path) from error
