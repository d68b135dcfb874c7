"""The command that resumes a run, with the overrides of its result.json."""

from collections.abc import Sequence
from pathlib import Path

from consistency.continuation import override_keys, read_outcome
from consistency.files.configs import options
from consistency.process.entry import typed_entry
from consistency.quoting import for_shell
from consistency.schema.recipes import overrides_of

OWN_KEYS = ("run_dir", "ckpt_path")  # taken from this command, never from the run's
LONGEST = 2000  # characters of a command


def command_of(run: Path, given: Sequence[str]) -> str | None:
    """The command with the overrides in a run's result.json, those of this command taking precedence.

    Args:
        run: directory of the run.
        given: overrides of this command; its experiment is ignored.

    Returns:
        The command; None where result.json is missing or damaged, or the command would be too long.
    """
    try:
        there = read_outcome(run).get("overrides")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(there, list) or not all(isinstance(word, str) and word.isprintable() for word in there):
        return None
    now = [word for word, key in zip(given, override_keys(given), strict=True) if key != "experiment"]
    there = [each for word in there for each in update_override(word)]
    replaced = {*override_keys(now), *OWN_KEYS}
    kept = [word for word, key in zip(there, override_keys(there), strict=True) if key not in replaced]
    text = " ".join(map(for_shell, (*typed_entry("train"), *kept, *now)))
    return text if len(text) <= LONGEST else None


def update_override(word: str) -> list[str]:
    """An override as this version writes it: an experiment that has no file any more as its parts."""
    key, _, name = word.partition("=")
    return overrides_of(name) if (key, name in options("experiment")) == ("experiment", False) else [word]
