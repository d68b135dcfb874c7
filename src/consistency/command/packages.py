"""`trust=[package]`: packages beside ours, whose configs are added and whose classes a checkpoint may name.

Hydra composes configs of what is in its search path, so the command line is read for this key before.
"""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from consistency.files.configs import trust
from consistency.files.registry import packages

KEY = "trust"


def trust_as_given(arguments: Sequence[str]) -> None:
    """Trust the packages that a command line names, the last time that it names any.

    Args:
        arguments: of the command line; where Hydra cannot read this one, it will say so itself.

    Raises:
        UserError: what is named is no list of packages, or none that Python finds.
    """
    given = [each for each in arguments if each.lstrip("+").partition("=")[0] == KEY and "=" in each]
    if not given:
        trust(())
        return
    try:
        override = OverridesParser.create().parse_override(given[-1])
    except HydraException:
        return
    if not override.is_sweep_override():  # which is refused: a run cannot be what it is by its packages
        trust(packages(override.value()))


def trust_as_configured(config: DictConfig) -> None:
    """The same by a composed config: a process of another launcher has no command line.

    Raises:
        UserError: what is named is no list of packages, or none that Python finds.
    """
    trust(packages(config.get(KEY, ())))
