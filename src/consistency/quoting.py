"""Overrides as text that Hydra reads back as the same value, and as text that can be pasted into a shell."""

import re
import shlex
from pathlib import Path

UNQUOTED = re.compile(r"[\w./:@%+-]*/[\w./:@%+-]*|[A-Za-z_]\w*", re.ASCII)  # read back as the same string
RESERVED = ("null", "true", "false", "inf", "nan")


def quoted(value: str) -> str:
    """A string as the value of an override; nothing in it is interpolated."""
    if UNQUOTED.fullmatch(value) and value.lower() not in RESERVED:
        return value
    return enquoted(value).replace("${", r"\${")


def enquoted(value: str) -> str:
    """A string in quotes of Hydra's grammar, in which `${key}` is still interpolated."""
    escaped = re.sub(r"(\\*)'", lambda found: 2 * found[1] + r"\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def path_override(key: str, path: str | Path) -> str:
    """`key=path` for Hydra. A folder that is named `~` stays one: the home directory is not meant."""
    text = str(path)
    return f"{key}={quoted(f'./{text}' if text.startswith('~') else text)}"


def path_argument(key: str, path: str | Path) -> str:
    """The same as text for a shell, for messages that a user copies from."""
    return for_shell(path_override(key, path))


def for_shell(word: str) -> str:
    """A word as a shell reads it back, in double quotes where they are enough."""
    if re.fullmatch(r"[\w@%+=:,./-]+", word):
        return word
    return shlex.quote(word) if re.search(r'["$`\\!]', word) else f'"{word}"'
