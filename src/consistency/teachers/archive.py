"""Checks whether the zip archive of a file of `torch.save` is whole, by its directory and its pickle."""

import pickle
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from consistency.files.pickles import check_bounded

SIZES = {  # bytes of an element, by the class of its storage
    **dict.fromkeys(["UntypedStorage", "ByteStorage", "CharStorage", "BoolStorage"], 1),
    **dict.fromkeys(["HalfStorage", "BFloat16Storage", "ShortStorage"], 2),
    **dict.fromkeys(["FloatStorage", "IntStorage"], 4),
    **dict.fromkeys(["DoubleStorage", "LongStorage", "ComplexFloatStorage"], 8),
    "ComplexDoubleStorage": 16,
}
NONSENSE = (  # errors that zipfile and pickle raise for damaged bytes
    *(zipfile.BadZipFile, zlib.error, struct.error, pickle.UnpicklingError, NotImplementedError),
    *(RuntimeError, EOFError, OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError),
    MemoryError,
)


def archive_fault(file: Path | IO[bytes], crc: bool) -> str | None:
    """What is wrong with an archive of `torch.save`; None if nothing is.

    Every storage must be as long as the tensors in it need: some versions of torch read past a shorter one.

    Args:
        file: the archive.
        crc: compare the CRC-32 of each member, which torch does not; this reads all of the file.
    """
    try:
        check_bounded(file)
        with zipfile.ZipFile(file) as archive:
            return _structure(archive) or (_crc(archive) if crc else None)
    except NONSENSE as error:
        return f"is no whole archive ({(str(error).splitlines() or [type(error).__name__])[0][:100]})"


def _structure(archive: zipfile.ZipFile) -> str | None:
    members = {info.filename: info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        return "holds two members of one name"
    for name, info in members.items():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            return f"holds a compressed member, {name[:100]!r}"
    pickles = [name for name in members if name.rpartition("/")[2] == "data.pkl"]
    if len(pickles) != 1:
        return "holds no data.pkl"
    folder = pickles[0].rpartition("/")[0]
    with archive.open(pickles[0]) as file:
        sizes = _Inventory(file).sizes()
    for key, size in sizes.items():
        info = members.get(f"{folder}/data/{key}")
        if info is None or info.file_size != size:
            there = "absent" if info is None else f"{info.file_size} bytes"
            return f"lacks numbers: storage {key[:100]} is {there} and its tensors need {size}"
    return None


def _crc(archive: zipfile.ZipFile) -> str | None:
    bad = archive.testzip()
    return None if bad is None else f"is damaged in {bad[:100]!r}: its CRC-32 is another"


class _Inventory(pickle._Unpickler):
    """Reads the storages that the pickle of an archive lists; no other value of it is built.

    In Python, for the C version allocates as many places as the highest number in a file says.

    Args:
        file: data.pkl.
    """

    def __init__(self, file: Any) -> None:
        super().__init__(file)
        self._sizes: dict[str, int] = {}

    def sizes(self) -> dict[str, int]:
        """Bytes of each storage, by its key."""
        self.load()
        return self._sizes

    def find_class(self, module: str, name: str) -> Any:
        """The name of a storage's class; an inert class in place of any other."""
        return name if name in SIZES else _Inert

    def persistent_load(self, saved: Any) -> "_Inert":
        """Record a storage.

        Raises:
            ValueError: it is described in another way than torch's, or in two ways.
        """
        _, kind, key, _, count = saved
        if not (isinstance(kind, str) and isinstance(key, str) and type(count) is int and count >= 0):
            raise ValueError("a storage that is not described as torch does")
        size = count * SIZES[kind]
        if self._sizes.setdefault(key, size) != size:
            raise ValueError(f"storage {key[:100]} has two sizes")
        return _Inert()


class _Inert(dict[Any, Any]):
    """Stands in for any object that a pickle builds or fills, without any effect."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Nothing."""

    def append(self, item: Any) -> None:
        """Nothing."""

    def add(self, item: Any) -> None:
        """Nothing."""
