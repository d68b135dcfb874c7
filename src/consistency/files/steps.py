"""A CSV file of numbers by step: ascending, each step once, whole at any moment."""

import csv
import time
from collections.abc import Iterator, Mapping
from io import StringIO
from pathlib import Path
from typing import BinaryIO

from consistency.errors import UserError
from consistency.files.atomic import replacing
from consistency.files.owned import check_own
from consistency.files.paths import regular

STEP = "step"  # the first column
LARGEST = 2**30  # bytes of a file that is read
SECONDS = 30.0  # after which a new value has the file written anew
LATE = 1  # a value may come so many steps late without the file being read again

Values = dict[str, float]  # of a step, by name


class StepTable:
    """Values that come step by step, in a file that is replaced as a whole when it is written.

    Only the last rows are held in memory. What is in the file already stays when more is added.

    Args:
        path: of the file; nothing is read or written before it is needed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._columns: list[str] = []
        self._rows: dict[int, Values] = {}  # those that may still get values
        self._kept = self._width = 0  # bytes of finished rows in the file, below its header; their columns
        self._last = -1  # step of the last of these
        self._read = self._changed = False
        self._written = time.monotonic()

    def add(self, step: int | None, values: Mapping[str, float]) -> None:
        """Add values to the row of a step, in place of those that it has.

        Args:
            step: None for the last one.
            values: by name.

        Raises:
            UserError: the file is damaged, or no file of this kind.
            Unwritable: it cannot be written.
        """
        self._read_once()
        step = max([self._last, *self._rows], default=0) if step is None else step
        if step <= self._last:
            self._reopen()
        self._rows.setdefault(max(step, 0), {}).update(values)
        self._columns += [name for name in values if name not in self._columns]
        self._changed = True
        if time.monotonic() - self._written > SECONDS:
            self.save()

    def cut(self, step: int) -> None:
        """Remove all rows after a step, and columns that are empty then."""
        self._reopen()
        kept = {k: row for k, row in self._rows.items() if k <= step}
        self._changed = self._changed or len(kept) < len(self._rows)
        used = {name for row in kept.values() for name in row}
        self._rows, self._columns = kept, [name for name in self._columns if name in used]
        if not kept:
            self.path.unlink(missing_ok=True)
        self.save()

    def save(self) -> None:
        """Write the file, if there is anything new.

        Raises:
            Unwritable: the system refused; the file is as it was.
        """
        if not self._changed or not self._rows:
            return
        last = max(self._rows)
        finished = [step for step in sorted(self._rows) if step < last - LATE]
        with replacing(self.path, durable=True) as temporary, temporary.open("wb") as file:
            begin = file.write(self._line([STEP, *self._columns]))
            self._copy(file)
            for step in finished:
                file.write(self._row(step))
            kept = file.tell() - begin
            for step in sorted(self._rows.keys() - {*finished}):
                file.write(self._row(step))
        self._kept, self._last = kept, max([self._last, *finished])
        self._rows = {step: self._rows[step] for step in self._rows.keys() - {*finished}}
        self._changed, self._written, self._width = False, time.monotonic(), len(self._columns)

    def _copy(self, file: BinaryIO) -> None:
        """Finished rows, with an empty field for each column that has come since."""
        if not self._kept:
            return
        missing = b"," * (len(self._columns) - self._width)
        with self.path.open("rb") as former:
            former.readline()
            left = self._kept
            while left:
                line = former.readline()
                left -= len(line)
                file.write(line.rstrip(b"\n") + missing + b"\n")

    def _read_once(self) -> None:
        if not self._read:
            self._read = True
            check_own(self.path)
            self._columns, self._rows = read_steps(self.path)
            self._width = len(self._columns)

    def _reopen(self) -> None:
        """Hold all rows in memory, so that any may get values."""
        self._read_once()
        if self._kept:
            _, former = read_steps(self.path)
            self._rows = former | {k: former.get(k, {}) | row for k, row in self._rows.items()}
            self._kept, self._last = 0, -1

    def _row(self, step: int) -> bytes:
        row = self._rows[step]
        return self._line([step, *(row.get(name, "") for name in self._columns)])

    @staticmethod
    def _line(cells: list[str] | list[object]) -> bytes:
        out = StringIO()
        csv.writer(out, lineterminator="\n").writerow(cells)
        return out.getvalue().encode()


def read_steps(path: Path) -> tuple[list[str], dict[int, Values]]:
    """The names and the rows of such a file, empty where there is none; of equal steps, the later values.

    Args:
        path: of a file from anywhere.

    Raises:
        UserError: it is damaged, too large, or no file of this kind.
        OSError: it cannot be read, or is no regular file.
    """
    if not path.exists():
        return [], {}
    if regular(path).stat().st_size > LARGEST:
        raise UserError(f"{path} is larger than {LARGEST >> 30} GiB: move it elsewhere")
    with path.open(encoding="utf-8", newline="") as file:
        try:
            lines = csv.reader(file, strict=True)
            names = next(lines, [])
            place = names.index(STEP)
            rows: dict[int, Values] = {}
            for step, cells in step_cells(lines, len(names), place):
                values = zip(names, cells, strict=True)
                found = {name: float(cell) for name, cell in values if name != STEP and cell}
                rows.setdefault(step, {}).update(found)
        except (ValueError, csv.Error) as error:
            raise UserError(f"{path} is damaged ({error}): move it elsewhere") from error
    return [name for name in names if name != STEP], dict(sorted(rows.items()))


def step_cells(lines: Iterator[list[str]], width: int, place: int) -> Iterator[tuple[int, list[str]]]:
    """Step and cells of each line.

    Raises:
        ValueError: a line has another number of cells, or no step.
    """
    for number, cells in enumerate(lines, 2):
        if len(cells) != width or not cells[place].isdecimal():
            raise ValueError(f"line {number} is no row of {width} numbers")
        yield int(cells[place]), cells
