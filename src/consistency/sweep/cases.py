"""Cases of a sweep: lists of overrides, such as those of a method on data, each combined with all values."""

from collections.abc import Sequence

from consistency.schema.recipes import KEYS

Command = Sequence[str]  # overrides


def remaining_cases(cases: Sequence[Command], given: Command) -> list[list[str]]:
    """The cases of a sweep without the overrides that its command line replaces.

    Args:
        cases: of the config.
        given: overrides of the command line. One of experiment, method, data or budget replaces all cases;
            any other replaces those of the same key.
    """
    keys = {each.lstrip("+~").partition("=")[0] for each in given}
    if keys & {*KEYS}:
        return []
    return [[each for each in case if each.partition("=")[0] not in keys] for case in cases]


def in_cases(cases: Sequence[Command], commands: Sequence[Command]) -> list[list[str]]:
    """Each command in each case; the commands themselves where there are no cases."""
    return [[*case, *command] for command in commands for case in cases or [[]]]
