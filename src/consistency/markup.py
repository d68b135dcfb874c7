"""Text that others chose (names, metadata, values) in Markdown and HTML: text there, never markup."""

import html
import re

from consistency.errors import printable, strip_controls


def literal_text(text: object) -> str:
    """On one line of a paragraph, a heading or a cell of Markdown: no cells, tags, code, links or images."""
    return re.sub(r"[\\|<>`]|(?<=\])(?=[(:])", r"\\\g<0>", strip_controls(str(text)))


def code_span(text: object) -> str:
    """A code span of Markdown, outside tables."""
    shown = strip_controls(str(text))
    marks = "`" * (longest_run(shown) + 1)
    return f"{marks} {shown} {marks}" if "`" in shown else f"{marks}{shown}{marks}"


def fenced(text: str, language: str) -> str:
    """A block of code, of lines; it ends where the text does, whatever fences are in it."""
    lines = "\n".join(printable(line) for line in text.splitlines())
    marks = "`" * max(3, longest_run(lines) + 1)
    return f"{marks}{language}\n{lines}\n{marks}"


def escaped(text: object) -> str:
    """On one line of HTML, in an element or a quoted attribute."""
    return html.escape(strip_controls(str(text)))


def longest_run(text: str) -> int:
    """Backticks in a row, at most."""
    return max((len(run) for run in re.findall("`+", text)), default=0)
