"""The command that goes on with a run."""

from collections.abc import Sequence
from pathlib import Path

from consistency.continuation import override_keys, read_outcome
from consistency.files.configs import options
from consistency.process.entry import typed_entry
from consistency.quoting import for_shell
from consistency.schema.recipes import overrides_of

OWN_KEYS = ("run_dir", "ckpt_path")  # of this command, never of the run's
LONGEST = 2000  # characters


def command_of(run: Path, given: Sequence[str]) -> str | None:
    """The overrides of a run, as its result.json has them, with those of this command in their place.

    Args:
        run: its directory.
        given: overrides of this command, of which the experiment is left out.

    Returns:
        The whole command; None where result.json is missing or damaged, or its overrides are no short text.
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
    """An override, where it names an experiment that has no file any more, as it is written today."""
    key, _, name = word.partition("=")
    return overrides_of(name) if (key, name in options("experiment")) == ("experiment", False) else [word]
