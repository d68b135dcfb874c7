"""`trust=[package]`: trusted packages, whose configs are added and whose classes a checkpoint may name.

Hydra composes configs from its search path, so that this key is read from the command line before.
"""

from collections.abc import Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig

from consistency.files.configs import trust
from consistency.files.registry import packages

KEY = "trust"


def trust_as_given(arguments: Sequence[str]) -> None:
    """Trust the packages in the last override of `trust` on the command line.

    Args:
        arguments: of the command line; an override that Hydra cannot read is left to Hydra.

    Raises:
        UserError: the value is no list of packages, or a package is not found.
    """
    overrides = [each for each in arguments if each.lstrip("+").partition("=")[0] == KEY and "=" in each]
    if not overrides:
        trust(())
        return
    try:
        override = OverridesParser.create().parse_override(overrides[-1])
    except HydraException:
        return
    if not override.is_sweep_override():  # sweeps over packages are refused later
        trust(packages(override.value()))


def trust_as_configured(config: DictConfig) -> None:
    """Trust the packages in a composed config, as a process of another launcher has no command line.

    Raises:
        UserError: the value is no list of packages, or a package is not found.
    """
    trust(packages(config.get(KEY, ())))
