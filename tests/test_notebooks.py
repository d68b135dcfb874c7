"""Notebooks run from top to bottom, are kept without outputs, and with them in docs/notebooks."""

import json
import re
from pathlib import Path

import matplotlib
import pytest
from matplotlib import pyplot

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CODE = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PICTURE = re.compile(r"!\[png\]\(([^)]+)\)")


def code_cells(path):
    return [
        cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"
    ]


@pytest.mark.timeout(3600)  # the lesson trains nine small models: two minutes of a free core
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path):
    matplotlib.use("Agg")
    cells = code_cells(path)
    assert not any(cell["outputs"] for cell in cells)
    names: dict = {}
    for i, cell in enumerate(cells):
        exec(compile("".join(cell["source"]), f"{path.name}[{i}]", "exec"), names)
    pyplot.close("all")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_rendered_copy_has_the_same_code_and_all_its_pictures(path):
    folder = ROOT / "docs" / "notebooks"
    text = (folder / f"{path.stem}.md").read_text(encoding="utf-8")
    written = ["".join(cell["source"]) for cell in code_cells(path)]
    assert [code.rstrip("\n") for code in CODE.findall(text)] == written, "make notebooks"
    pictures = PICTURE.findall(text)
    assert pictures
    assert all((folder / picture).is_file() for picture in pictures)
