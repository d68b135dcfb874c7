"""HTML pages in a single file, with embedded pictures, readable on a phone."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from consistency.markup import escaped
from consistency.table import Table

STYLE = """
:root { color-scheme: light dark; --ink: #1d2329; --soft: #69727c; --line: #d9dee3; --paper: #ffffff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e7ea; --soft: #98a1aa; --line: #363c43; --paper: #16191d; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: .5rem 0 0; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; padding-top: .6rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; color: var(--soft); font-weight: 600; }
p { margin: .4rem 0; color: var(--soft); overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .85rem; overflow-wrap: anywhere; }
img { max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
img.pixels { width: 100%; image-rendering: pixelated; }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(17rem, 100%), 1fr)); gap: 1rem; }
.narrow { grid-template-columns: repeat(auto-fill, minmax(min(11rem, 45%), 1fr)); }
.legend { list-style: none; margin: .6rem 0; padding: 0; columns: 17rem; font-size: .85rem; }
.legend li { break-inside: avoid; overflow-wrap: anywhere; padding-left: 2.4rem; text-indent: -2.4rem; }
.legend i { display: inline-block; width: 1.8rem; margin-right: .6rem; vertical-align: middle; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
details { margin: .6rem 0; }
summary { cursor: pointer; color: var(--soft); }
"""


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Args:
        data: content of a PNG or SVG file.
        kind: media type of the file.
        caption: text below the image.
        pixels: enlarge the image without smoothing.
    """

    data: bytes
    kind: str
    caption: str
    pixels: bool = False

    @classmethod
    def file(cls, path: Path, caption: str, pixels: bool = False) -> "Picture":
        """The picture of a PNG file."""
        return cls(path.read_bytes(), "image/png", caption, pixels)

    def html(self) -> str:
        """The element with the embedded image and its caption."""
        source = f"data:{self.kind};base64,{b64encode(self.data).decode()}"
        shape, text = ' class="pixels"' if self.pixels else "", escaped(self.caption)
        return f'<figure><img{shape} alt="{text}" src="{source}"><figcaption>{text}</figcaption></figure>'


@dataclass(frozen=True)
class Line:
    """An entry in the legend of a section with charts.

    Args:
        color: of the line, as CSS and matplotlib name it.
        style: "solid", "dashed" or "dotted".
        text: label of the line.
    """

    color: str
    style: str
    text: str

    def html(self) -> str:
        """The entry as an item of a list."""
        return f'<li><i style="border-top: 3px {self.style} {self.color}"></i>{escaped(self.text)}</li>'


@dataclass(frozen=True)
class Section:
    """A section of the page, from top to bottom: notes, legend, pictures, tables, and a part that folds.

    Args:
        title: heading of the section.
        notes: paragraphs.
        pictures: side by side if there is room.
        tables: below the pictures.
        folded: tables in the part that folds.
        asides: paragraphs before these tables.
        fold: title of the part that folds.
        unfolded: whether it is open at first.
        legend: entries for all pictures together.
        narrow: use narrower pictures, more in a row.
    """

    title: str
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    folded: Sequence[Table] = ()
    asides: Sequence[str] = ()
    fold: str = "protocol"
    unfolded: bool = False
    legend: Sequence[Line] = ()
    narrow: bool = False

    def html(self) -> str:
        """The section as HTML."""
        notes = "".join(f"<p>{escaped(note)}</p>" for note in self.notes)
        pictures = "".join(picture.html() for picture in self.pictures)
        shape = "row narrow" if self.narrow else "row"
        row = f'<div class="{shape}">{pictures}</div>' if pictures else ""
        lines = "".join(line.html() for line in self.legend)
        legend = f'<ul class="legend">{lines}</ul>' if lines else ""
        tables = "".join(table.html() for table in self.tables)
        inside = "".join(f"<p>{escaped(text)}</p>" for text in self.asides)
        inside += "".join(table.html() for table in self.folded)
        state = " open" if self.unfolded else ""
        summary = f"<summary>{escaped(self.fold)}</summary>"
        details = f"<details{state}>{summary}{inside}</details>" if inside else ""
        return f"<section><h2>{escaped(self.title)}</h2>{notes}{legend}{row}{tables}{details}</section>"


def html_page(title: str, notes: Sequence[str], sections: Sequence[Section]) -> str:
    """The text of the HTML file.

    Args:
        title: of the page.
        notes: paragraphs below the title.
        sections: from top to bottom.
    """
    lines = "".join(f"<p>{escaped(note)}</p>" for note in notes)
    body = "\n".join(section.html() for section in sections)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{escaped(title)}</h1>{lines}\n{body}\n</body></html>\n"
    )
