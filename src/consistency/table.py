"""Tables, for a terminal, a Markdown file or a page."""

from collections.abc import Sequence
from dataclasses import dataclass

from consistency.markup import escaped, literal


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
        head = "".join(f"<th>{escaped(cell)}</th>" for cell in self.head)
        rows = "".join(
            "<tr>" + "".join(f"<td>{escaped(cell)}</td>" for cell in row) + "</tr>" for row in self.rows
        )
        heading = f"<h3>{escaped(self.title)}</h3>" if self.title else ""
        body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
        return f'{heading}<div class="wide">{body}</div>'


def markdown(tables: Sequence[Table]) -> str:
    """One after the other."""
    return "\n\n".join(table.markdown() for table in tables) + "\n"
