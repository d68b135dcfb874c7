"""Tables, for a terminal, a Markdown file or a page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from consistency.errors import plain, printable


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
        """A pipe table, for a file and for a terminal. Text stays text: names come from files."""
        head, *rows = [[literal(cell) for cell in line] for line in (self.head, *self.rows)]
        lines = [head, ["---"] * len(head), *rows]
        heading = f"**{literal(self.title)}**\n\n" if self.title else ""
        return heading + "\n".join(f"| {' | '.join(line)} |" for line in lines)

    def html(self) -> str:
        """A table that scrolls by itself where the screen is narrow."""
        head = "".join(f"<th>{as_html(cell)}</th>" for cell in self.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{as_html(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        heading = f"<h3>{as_html(self.title)}</h3>" if self.title else ""
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'{heading}<div class="wide">{body}</div>'


def as_html(text: str) -> str:
    """Text for a page: no markup of its own, no control characters, nothing that UTF-8 cannot hold."""
    return escape(printable(text))


def literal(text: str) -> str:
    """Text for a cell: on one line, and no cells, tags, links or images of its own."""
    return re.sub(r"[\\|<>]|(?<=\])(?=\()", r"\\\g<0>", plain(text))


def markdown(tables: Sequence[Table]) -> str:
    """One after the other."""
    return "\n\n".join(table.markdown() for table in tables) + "\n"
