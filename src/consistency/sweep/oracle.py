"""Compares methods by their distance to the exact function: a table and a chart of a sweep.

`python -m consistency.sweep.oracle DIRECTORY` makes both again from what the runs have left there.
"""

import sys
from pathlib import Path

from consistency.errors import UserError
from consistency.files.atomic import replacing, write_text
from consistency.sweep.chart import method_chart
from consistency.sweep.markdown import rows_markdown
from consistency.sweep.rows import rows
from consistency.sweep.runs import runs_of


class OracleTable:
    """Writes `oracle.md` and `oracle.png` into the directory of a sweep."""

    def write(self, directory: Path) -> None:
        """Write both from the results of the runs in the directory."""
        write_oracle(directory)

    def show(self, directory: Path) -> None:
        """Write both, and print the table."""
        show_oracle(directory)


def write_oracle(directory: Path) -> None:
    """Write the table and the chart of all runs in a directory, atomically."""
    found = rows(runs_of(directory))
    try:
        text = rows_markdown(found)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{directory}: a result.json in it is no result of a training run ({error})"
        ) from error
    write_text(directory / "oracle.md", text)
    with replacing(directory / "oracle.png") as temporary:
        method_chart(found).savefig(temporary, dpi=150)


def show_oracle(directory: Path) -> None:
    """Write both, and print the table and their paths."""
    write_oracle(directory)
    print(f"\n{(directory / 'oracle.md').read_text(encoding='utf-8')}")
    print(f"table        {directory / 'oracle.md'}\nchart        {directory / 'oracle.png'}")


def main(arguments: list[str]) -> int:
    """Show the table of the sweep in a directory; the exit status."""
    try:
        if len(arguments) != 1:
            raise UserError("give one directory: python -m consistency.sweep.oracle DIRECTORY")
        show_oracle(Path(arguments[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
