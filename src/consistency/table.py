"""Tables, for a terminal, a Markdown file or a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from consistency.errors import printable
from consistency.markup import escaped, literal_text


@dataclass(frozen=True)
class Table:
    """Rows of text under a head.

    Args:
        head: titles of the columns.
        rows: as many cells each.
        title: above the table; empty for none.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    title: str = ""

    def markdown(self) -> str:
        """A pipe table, for a file. Text stays text: names come from files."""
        head, *rows = [[literal_text(cell) for cell in line] for line in (self.head, *self.rows)]
        lines = [head, ["---"] * len(head), *rows]
        heading = f"**{literal_text(self.title)}**\n\n" if self.title else ""
        return heading + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def text(self) -> str:
        """Columns of equal width, for a terminal; all but the first are set to the right."""
        lines = [[printable(cell) for cell in line] for line in (self.head, *self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        heading = f"{printable(self.title)}\n" if self.title else ""
        return heading + "\n".join(
            "  ".join(
                [first.ljust(widths[0]), *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True))]
            ).rstrip()
            for first, *rest in lines
        )

    def html(self) -> str:
        """A table that scrolls by itself where the screen is narrow."""
        head = "".join(f"<th>{escaped(cell)}</th>" for cell in self.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        heading = f"<h3>{escaped(self.title)}</h3>" if self.title else ""
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'{heading}<div class="wide">{body}</div>'


def tables_markdown(tables: Sequence[Table]) -> str:
    """One after the other."""
    return "\n\n".join(table.markdown() for table in tables) + "\n"
