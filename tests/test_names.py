"""Names that somebody else chose: in a terminal, a Markdown file, a chart, a folder or an archive."""

import html
import inspect
import re
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from consistency.console import one_line
from consistency.data.images import open_source
from consistency.errors import UserError, strip_controls
from consistency.export import diffusers_page
from consistency.export.grid import grid_of
from consistency.export.model import Written
from consistency.library.model import Provenance
from consistency.lit.data.folder import tell
from consistency.markup import code_span, escaped, fenced, literal_text
from consistency.metrics import degradations
from consistency.process.notices import notice
from consistency.process.rank import MACHINES, RANKS
from consistency.result import metrics_line, metrics_table, path_lines
from consistency.table import Table
from consistency.tasks.show import curves
from consistency.tasks.show.curves import MOST, draw_charts
from consistency.tasks.show.export_page import Deviation, model_facts, readme_text
from consistency.tasks.show.page import Section, html_page
from consistency.tasks.show.variation import config_changes
from consistency.teach import print_once
from consistency.watch import progress
from tests.lists import multisteps
from tests.test_web import mlp

HOSTILE = "a\x1b]0;title\x07\x1b[31mred\r\nb\u202ec\udcffd"
PLAIN = "a ]0;title red b c d"
CURVE = ([0, 1], [1.0, 2.0])


@pytest.mark.parametrize("say", [notice, tell, print_once])
def test_a_line_for_the_terminal_has_no_control_characters(say, capsys):
    say(HOSTILE)
    shown = "".join(capsys.readouterr())
    assert strip_controls(shown) == PLAIN
    assert shown.removesuffix("\n").isprintable()
    assert strip_controls(HOSTILE) == one_line(HOSTILE) == PLAIN


@pytest.mark.parametrize(
    ("variables", "heard"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "4", "LOCAL_RANK": "0"}, False),  # of the second machine
        ({"SLURM_PROCID": "1"}, False),
        ({"NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "1"}, False),  # started by Lightning
    ],
)
def test_a_notice_is_printed_by_one_process_of_a_group(monkeypatch, capsys, variables, heard):
    for name in (*RANKS, *MACHINES):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    notice("a line")
    assert capsys.readouterr().err == ("a line\n" if heard else "")


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
    pictures, notes = draw_charts(found)
    assert [picture.caption for picture in pictures] == ["0", "1", "2"]
    assert notes == ["3 of 10000 charts are drawn.", "0: 3 of 101 curves are drawn."]
    assert draw_charts({"a/x": CURVE})[1] == []
    assert draw_charts({}) == ([], [])


def test_the_name_of_a_curve_is_no_formula():
    (picture,), _ = draw_charts({"FD/$\\frac$": CURVE, "FD/_$x_{$": CURVE, "FD/<b>": CURVE})
    assert b"<svg" in picture.data


@pytest.mark.parametrize("name", ["5", "null", "a,b", "../train", "", "{", "[1]", "ict_digits:x", "${x}"])
def test_an_experiment_that_is_no_file_is_not_known(name):
    assert config_changes(name, {}) is None


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
    files = open_source(tmp_path)
    request.getfixturevalue("shallow")
    assert [entry.name for entry in files.listing().entries] == names


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_that_lists_a_name_twice_is_refused(tmp_path):
    path = image(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.png", "b.png", "a.png"):
            archive.write(path, name)
    with pytest.raises(UserError, match=r"a\.zip lists a\.png more than once: pack it anew"):
        open_source(tmp_path / "a.zip").listing()


MARKUP = {
    "a|b": r"a\|b",
    "<script>": r"\<script\>",
    "two\nlines": "two lines",
    "\x1b[31mred": "red",
    "[x](javascript:alert(1))": r"[x]\(javascript:alert(1))",
    "[x]: http://y": r"[x]\: http://y",
    "a `b` ``c``": r"a \`b\` \`\`c\`\`",
}


@pytest.mark.parametrize("name", MARKUP)
def test_names_are_text_in_markdown_and_in_html(name):
    assert literal_text(name) == MARKUP[name]
    assert Table([name], [[name]]).markdown().splitlines()[0] == f"| {MARKUP[name]} |"
    assert escaped(name) == html.escape(strip_controls(name))
    shown = html_page(name, [name], [Section(name, [name], tables=[Table([name], [[name]], name)])])
    assert "<script>" not in shown
    assert "\x1b" not in shown
    assert f"<td>{escaped(name)}</td>" in shown


def test_code_ends_where_it_ends():
    assert code_span("a|b") == "`a|b`"
    assert code_span("a`b\n``c") == "``` a`b ``c ```"
    assert fenced("x = 1\n", "python") == "```python\nx = 1\n```"
    assert fenced("x\n````\n<b>\x1b[31m", "yaml") == "`````yaml\nx\n````\n<b>\n`````"


@pytest.fixture
def hostile():
    """A model whose names somebody else chose."""
    name = "a|b\n# <script>\x1b[31m `c` [x](javascript:y)"
    m = mlp()
    where = Provenance(Path("x"), 7, name, name, name)
    return replace(m, samplers=multisteps({name: [80.0, 0.8], "1step": [80.0]}), provenance=where)


def harmless(text):
    """No control characters, and nothing of a name is markup: what is left of the text has no < and links."""
    assert all(line.isprintable() for line in text.splitlines())
    plain_text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", re.sub(r"\\.", "", text), flags=re.DOTALL)
    assert "<" not in plain_text
    assert "](" not in plain_text
    assert text.count("\n# ") == 0


def test_the_page_of_a_diffusers_folder_takes_names_as_text(hostile):
    text = diffusers_page.model_card(hostile, grid_of(hostile.sigmas, hostile.sigma_min), None)
    harmless(text)
    (row,) = (line for line in text.splitlines() if "0.8 |" in line)
    assert row.replace(r"\|", "").count("|") == 5


def test_the_page_of_an_export_takes_names_as_text(hostile):
    (name, _) = hostile.sigmas
    errors = {name: Deviation(0.0, 0.0, 1.0)}
    out = Written([], {}, None, how=f"run('{strip_controls(name)}```')\n")
    harmless(readme_text(hostile, out, model_facts(hostile, errors, [80.0])))


class Named:
    """An extractor of features with a name that somebody else chose."""

    metric_name = "FD|<b>"


def test_a_table_of_degradations_takes_names_as_text(tmp_path, monkeypatch):
    monkeypatch.setattr(degradations, "load_folder", lambda root: (torch.zeros(4, 3, 2, 2), torch.zeros(4)))
    monkeypatch.setattr(degradations, "extract_features", lambda *a, **k: torch.zeros(4, 2))
    monkeypatch.setattr(degradations, "frechet", lambda *a: 1.0)
    monkeypatch.setattr(degradations, "damages", lambda labels: [])
    monkeypatch.setattr(degradations, "protocol_distances", lambda *a: {"a|b": 1.0})
    text = degradations.report_degradations(tmp_path, [Named()])
    assert "FD\\|\\<b\\>" in text
    assert "| a\\|b | 1 |" in text


def test_a_result_on_the_terminal_has_no_control_characters():
    result = {"metrics": {f"FD/{HOSTILE}": 1.0}, "seconds": 1.0, "paths": {HOSTILE: HOSTILE}}
    text = metrics_line(result) + path_lines(result) + metrics_table({f"teacher/FD/{HOSTILE}": 1.0}).strip()
    assert text.replace("\n", "").isprintable()


def test_a_bar_has_no_control_characters(capsys):
    with progress(HOSTILE, 1, 0) as advance:
        advance(1)
    assert capsys.readouterr().err.startswith(f"{PLAIN}: 1/1")
