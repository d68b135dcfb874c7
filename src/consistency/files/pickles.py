"""The only reader of files of `torch.save`: their size is bounded before they are read, and no code is run.

torch's restricted unpickler calls no foreign code, but it builds whatever a pickle describes. A few hundred
bytes can describe a tuple of sixty levels, each holding the level below twice, whose hash takes centuries; a
compressed archive can hold more than memory does. A pickle is therefore first walked through in linear time,
without building its values.
"""

import pickle
import pickletools
import warnings
import zipfile
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import torch

ZIP = b"PK\x03\x04"  # first bytes of a file that torch reads as an archive
LEGACY = 5  # number of pickles at the beginning of a file of the format before archives
OPCODES = 4_000_000  # largest number in a pickle
VALUES = 10_000_000  # largest number of values in a pickle, each counted as often as it is reached
PICKLE = 2**28  # largest size in bytes of the pickle in an archive
TEXT = 1000  # characters or bytes of text that count as one value

DAMAGE = (  # what readers raise when bytes make no sense
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, MemoryError, AssertionError),
)

MUTATE = frozenset(["APPEND", "APPENDS", "SETITEM", "SETITEMS", "ADDITEMS", "BUILD"])
STORE = frozenset(["PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"])
FETCH = frozenset(["GET", "BINGET", "LONG_BINGET"])


def load_tensors(file: Path | IO[bytes], mmap: bool = False) -> Any:
    """Read a file of `torch.save` with tensors and plain containers, on the CPU.

    Args:
        file: path or open file.
        mmap: map storages from disk instead of reading them.

    Raises:
        UnpicklingError: it holds something else, or would take too much time or memory.
        RuntimeError, ValueError, EOFError, OSError, KeyError: it is damaged.
    """
    check_bounded(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns before it raises an error
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)


def is_zip(file: Path | IO[bytes]) -> bool:
    """Whether a file ends like a zip archive, damaged or not."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:  # raised for an archive that claims to span several disks
        return True


def check_bounded(file: Path | IO[bytes]) -> None:
    """Refuse a file of `torch.save` that would take too much time or memory.

    Raises:
        UnpicklingError: it would.
        RuntimeError, ValueError, EOFError, OSError: it is damaged.
    """
    with file.open("rb") if isinstance(file, Path) else nullcontext(file) as stream:
        start = stream.tell()
        archive = stream.read(4) == ZIP
        stream.seek(start)
        if archive:
            check_archive(stream)
            stream.seek(start)
            reader = torch._C.PyTorchFileReader(
                stream
            )  # the bytes that torch will unpickle, by its own reader
            check_pickle(BytesIO(reader.get_record("data.pkl")))
        else:
            check_legacy(stream)
        stream.seek(start)


def check_legacy(stream: IO[bytes]) -> None:
    """Check a file of the format before archives: one pickle, or `LEGACY` of them."""
    check_pickle(stream)
    try:
        for _ in range(LEGACY - 1):
            check_pickle(stream)
    except ValueError as error:
        raise pickle.UnpicklingError("no file of torch.save") from error


def check_archive(stream: IO[bytes]) -> None:
    """Refuse an archive whose content is larger than its file; `torch.save` does not compress.

    Raises:
        UnpicklingError: a member is compressed or occurs twice, or the pickle is too large.
        ValueError: the archive is truncated.
    """
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError) as error:
        raise ValueError(str(error)) from error
    size = stream.seek(0, 2)
    pickled = [m.file_size for m in members if m.filename.endswith("data.pkl")]
    if (
        any(m.compress_type != zipfile.ZIP_STORED for m in members)
        or sum(m.file_size for m in members) > size
        or len({m.filename for m in members}) < len(members)
        or max(pickled, default=0) > PICKLE
    ):
        raise pickle.UnpicklingError("an archive that is larger than its file")


class Node:
    """A value of a pickle that has not been built.

    Args:
        weight: number of values that it counts as, without its children.
        children: the values that it holds.
    """

    __slots__ = ("children", "weight")

    def __init__(self, weight: int, children: "list[Node]") -> None:
        self.weight, self.children = weight, children


class Walk:
    """The stack and the memo of an unpickler that builds no values."""

    def __init__(self) -> None:
        self.stack: list[Node | None] = []  # None is a mark
        self.memo: dict[int, Node] = {}
        self.made: list[Node] = []

    def step(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Apply an opcode to the stack.

        Raises:
            IndexError, KeyError: it needs a value that the stack or the memo lacks.
        """
        if opcode.name in STORE:
            self.memo[len(self.memo) if argument is None else int(argument)] = self.top()
        elif opcode.name in FETCH:
            self.stack.append(self.memo[int(argument)])
        elif opcode.name == "DUP":
            self.stack.append(self.top())
        elif opcode.name == "MARK":
            self.stack.append(None)
        else:
            taken = self.taken(opcode)
            if opcode.name in MUTATE:
                taken[0].children.extend(taken[1:])
                self.stack.append(taken[0])
            elif opcode.stack_after:
                self.made.append(Node(weight(argument), taken))
                self.stack.append(self.made[-1])

    def top(self) -> Node:
        """The value on top of the stack."""
        node = self.stack[-1]
        if node is None:
            raise IndexError("a mark in place of a value")
        return node

    def taken(self, opcode: pickletools.OpcodeInfo) -> list[Node]:
        """Remove the values that an opcode takes from the stack; they are returned in order."""
        before, taken = opcode.stack_before, list[Node]()
        below = len(before)
        if pickletools.markobject in before:
            below = before.index(pickletools.markobject)
            while (node := self.stack.pop()) is not None:
                taken.append(node)
        for _ in range(below):
            taken.append(self.top())
            self.stack.pop()
        return taken[::-1]


def check_pickle(stream: IO[bytes]) -> None:
    """Walk through the pickle at the beginning of a stream, up to its end.

    Raises:
        UnpicklingError: it has more opcodes or values than a checkpoint can have.
        ValueError: it is damaged.
    """
    walk = Walk()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if count > OPCODES:
                raise pickle.UnpicklingError("too many values")
            walk.step(opcode, argument)
    except (LookupError, OverflowError, MemoryError) as error:
        raise ValueError(f"no pickle: {error}") from error
    check_values(walk.made)  # all values, as those removed from the stack would be built as well


def check_values(roots: list[Node]) -> None:
    """Refuse values that hold others so often that visiting all of them would take too long."""
    sizes: dict[int, int] = {}
    for root in roots:
        waiting = [(root, False)]
        while waiting:
            node, done = waiting.pop()
            if done:
                sizes[id(node)] = node.weight + sum(sizes[id(child)] for child in node.children)
                if sizes[id(node)] > VALUES:
                    raise pickle.UnpicklingError("values that hold one another too often")
            elif id(node) not in sizes:
                sizes[id(node)] = 0  # its size inside itself, where a value holds itself
                waiting.append((node, True))
                waiting.extend((child, False) for child in node.children)


def weight(argument: object) -> int:
    """The number of values that an argument counts as: one, and more for long text."""
    return 1 + len(argument) // TEXT if isinstance(argument, str | bytes | bytearray) else 1
