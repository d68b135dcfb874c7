"""Remedies for keys and options that a config does not have, but older versions had or users expect."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from consistency.command.misread import bare
from consistency.errors import UserError, close
from consistency.files.paths import expanded
from consistency.quoting import for_shell, path_argument
from consistency.schema.arguments import check_trainer_arguments
from consistency.schema.targets import parameters

PATHS = {"data": ("image_folder", "data.root"), "teacher": ("checkpoint", "teacher.path")}

FORMER = {"denoiser.precond": "precond", "denoiser": "precond"}  # keys of older versions, the longest first
TRAINER = "lightning.Trainer"


def path_as_option(chosen: str) -> str | None:
    """The remedy for a path given as an option of data/ or teacher/; None for anything else.

    Args:
        chosen: group/option, as in the message of Hydra.
    """
    group, _, given = chosen.partition("/")
    if group not in PATHS or not ("/" in given or given[:1] in ("~", ".") or Path(given).exists()):
        return None
    option, key = PATHS[group]
    working = f"{group}={option} {path_argument(key, expanded(given))}"
    return f"{group}={given} is no option but a path: write {working}"


def unknown(key: str, value: str | None, section: DictConfig) -> str | None:
    """What to say of an override of a key that its section lacks; None where no remedy is known.

    Args:
        key: with dots.
        value: as it was given, if it is known.
        section: that lacks the key.
    """
    given = "VALUE" if value is None else value
    for former, present in FORMER.items():
        if key == former or key.startswith(f"{former}."):
            return f"unknown key {key}: it is {present}{key.removeprefix(former)} now"
    for group, (option, known) in PATHS.items():
        if key == known:
            return f"unknown key {key}: write {group}={option} {path_argument(key, expanded(bare(given)))}"
    if not is_argument(key.rpartition(".")[2], section):
        return None
    if key.startswith("trainer.") and value is not None:
        try:
            check_trainer_arguments(OmegaConf.from_dotlist([f"{key}={value}"]).trainer)
        except UserError as error:
            return str(error)
    return f"unknown key {key}: write {for_shell(f'+{key}={given}')}"


def is_argument(name: str, section: DictConfig) -> bool:
    """Whether what a section builds takes such an argument; a misspelt key needs no import to tell."""
    target = section.get("_target_")
    if name.startswith("_") or target is None or (target != TRAINER and close(name, map(str, section))):
        return False
    return name in (parameters(str(target)) or {})


def value_among(key: str, overrides: list[str]) -> str | None:
    """The value that a command line gives a key; None where it gives none."""
    pairs = (override.partition("=") for override in overrides)
    return next((value for name, sign, value in pairs if sign and name == key), None)
