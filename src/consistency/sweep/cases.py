"""Overrides that belong together, as those of a method on data: a sweep runs all that it varies with each."""

from collections.abc import Sequence

from consistency.schema.recipes import KEYS

Command = Sequence[str]  # overrides


def left_of(cases: Sequence[Command], given: Command) -> list[list[str]]:
    """The cases of a sweep as far as its command line leaves them.

    Args:
        cases: of the config.
        given: overrides of the command line. One that says what a run is replaces the cases; any other
            replaces that of the same key.
    """
    keys = {each.lstrip("+~").partition("=")[0] for each in given}
    if keys & {*KEYS}:
        return []
    return [[each for each in case if each.partition("=")[0] not in keys] for case in cases]


def in_cases(cases: Sequence[Command], commands: Sequence[Command]) -> list[list[str]]:
    """Each command in each case; the commands themselves where there are no cases."""
    return [[*case, *command] for command in commands for case in cases or [[]]]
