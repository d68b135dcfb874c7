"""Every command of the README composes: its keys, groups and options exist. Other tests run them."""

import re
import shlex

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from tests.conftest import ROOT

README = (ROOT / "README.md").read_text()
FENCED = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
BLOCKS = [block for language, block in FENCED if not language]
LINES = [line for block in BLOCKS for line in block.splitlines()]
COMMANDS = [line for line in LINES if re.match(r"python (train|eval)\.py", line)]
W = "data/weights/digits.safetensors"  # as the README sets it


def parsed(line):
    """The entry point of a command, and its overrides; of the values of a sweep the first."""
    _, script, *words = shlex.split(line.replace("$W", W).replace("…", "X"), comments=True)
    overrides = OverridesParser.create().parse_overrides([word for word in words if word != "-m"])
    swept = [o for o in overrides if o.is_sweep_override()]
    first = {o.key_or_group: next(o.sweep_string_iterator()) for o in swept}
    return script, [
        f"{o.key_or_group}={first[o.key_or_group]}" if o.key_or_group in first else o.input_line
        for o in overrides
    ]


def test_the_commands_are_found():
    assert len(COMMANDS) > 25


@pytest.mark.parametrize("line", COMMANDS, ids=lambda line: line.partition(" #")[0].strip())
def test_a_command_of_the_readme_composes(line):
    script, overrides = parsed(line)
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        assert compose(script.removesuffix(".py"), overrides, return_hydra_config=True)


def test_what_is_read_first_is_short():
    """The files named before "two hundred lines" have about as many together."""
    first = README[README.index("Read, in this order:") : README.index("two hundred lines")]
    files = re.findall(r"\]\(([^)]+)\)", first)
    lines = {name: (ROOT / name).read_text().count("\n") for name in files}
    assert 2 <= len(files) <= 4
    assert sum(lines.values()) <= 220, lines
