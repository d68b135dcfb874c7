"""Names that somebody else chose: in a terminal, a Markdown file, a chart, a folder or an archive."""

import inspect
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

from consistency.console import one_line
from consistency.errors import UserError, plain
from consistency.lit.data.folder import tell
from consistency.lit.data.images import source
from consistency.process.notices import notice
from consistency.table import Table
from consistency.tasks import curves
from consistency.tasks.curves import MOST, charts
from consistency.tasks.variation import variation
from consistency.teach import say as say_once

HOSTILE = "a\x1b]0;title\x07\x1b[31mred\r\nb\u202ec\udcffd"
PLAIN = "a ]0;title red b c d"
CURVE = ([0, 1], [1.0, 2.0])


@pytest.mark.parametrize("say", [notice, tell, say_once])
def test_a_line_for_the_terminal_has_no_control_characters(say, capsys):
    say(HOSTILE)
    shown = "".join(capsys.readouterr())
    assert plain(shown) == PLAIN
    assert shown.removesuffix("\n").isprintable()
    assert plain(HOSTILE) == one_line(HOSTILE) == PLAIN


def test_a_cell_stays_a_cell():
    cell = "![x](http://y) <b>|\\|\n| z |"
    table = Table([cell, HOSTILE], [[cell, HOSTILE]], title=cell)
    kept = "![x]\\(http://y) \\<b\\>\\|\\\\\\| \\| z \\|"
    line = f"| {kept} | {PLAIN} |"
    assert table.markdown() == f"**{kept}**\n\n{line}\n| --- | --- |\n{line}"


def test_plain_cells_are_not_changed():
    cells = ["2step/FD", "0.5 ± 0.1 (+0.2)", "net.width=[1,2] a_b", "–", ""]
    assert Table(cells, []).markdown().splitlines()[0] == f"| {' | '.join(cells)} |"


def test_a_page_draws_so_many_charts_and_says_so(monkeypatch):
    assert MOST <= 48
    monkeypatch.setattr(curves, "MOST", 3)
    found = {f"{i}/x": CURVE for i in range(10_000)} | {f"0/{i}": CURVE for i in range(100)}
    pictures, notes = charts(found)
    assert [picture.caption for picture in pictures] == ["0", "1", "2"]
    assert notes == ["3 of 10000 charts are drawn.", "0: 3 of 101 curves are drawn."]
    assert charts({"a/x": CURVE})[1] == []
    assert charts({}) == ([], [])


def test_the_name_of_a_curve_is_no_formula():
    (picture,), _ = charts({"FD/$\\frac$": CURVE, "FD/_$x_{$": CURVE, "FD/<b>": CURVE})
    assert b"<svg" in picture.data


@pytest.mark.parametrize("name", ["5", "null", "a,b", "../train", "", "{", "[1]", "ict_digits:x", "${x}"])
def test_an_experiment_that_is_no_file_is_not_known(name):
    assert variation(name, {}) is None


def image(path):
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(path)
    return path


@pytest.fixture
def shallow():
    """A recursion limit 200 calls from here: pytest could not remove folders deeper than the usual one."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack(0)) + 200)
    yield
    sys.setrecursionlimit(before)


def test_folders_may_be_nested_deeper_than_python_calls(tmp_path, request):
    deep = "d/" * 300
    (tmp_path / deep).mkdir(parents=True)
    names = ["a.png", f"{deep}b.png"]
    for name in names:
        (tmp_path / name).touch()
    files = source(tmp_path)
    request.getfixturevalue("shallow")
    assert [entry.name for entry in files.entries()] == names


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_lists_a_name_twice_is_refused(tmp_path):
    path = image(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.png", "b.png", "a.png"):
            archive.write(path, name)
    with pytest.raises(UserError, match=r"a\.zip lists a\.png more than once: pack it anew"):
        source(tmp_path / "a.zip").entries()
