"""Is a run that goes on from a checkpoint still the run that the checkpoint is of?"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from consistency.continuation.differences import ABSENT, Difference, find_differences, override_text
from consistency.errors import UserError
from consistency.metrics.choice import pick
from consistency.quoting import path_argument
from consistency.schema.recipes import overrides_of
from consistency.schema.rules import PART
from consistency.schema.targets import parameters
from consistency.teachers.debugged import debug_of

NETWORK = ("net", "precond", "model", "coordinate", "data")  # other weights fit another value


@dataclass(frozen=True)
class Continuation:
    """A run that goes on.

    Args:
        step: of the checkpoint; None for a run that begins.
        where: the checkpoint is, as an override.
        changes: what differs from it and takes effect.
    """

    step: int | None = None
    where: str = ""
    changes: list[Difference] = field(default_factory=list)

    @property
    def changed(self) -> dict[str, list[Any]]:
        """Key -> [old, new], as plain data."""
        return {
            c.name: [absent_as_none(c.there), absent_as_none(c.here)] for c in self.changes if c.effect.said
        }

    def line(self, config: DictConfig) -> str | None:
        """What takes effect from here on; None where nothing has changed."""
        said = [
            f"{key}={override_text(new)} (was {override_text(old)})"
            for key, (old, new) in self.changed.items()
        ]
        if not said:
            return None
        return f"from step {self.step} on: {', '.join(said)}{''.join(notes(self.changed, config))}"


def notes(changed: dict[str, list[Any]], config: DictConfig) -> Iterator[str]:
    """What follows from some changes."""
    if "trainer.max_steps" in changed:
        laws = {"the learning rate": config.rate, "N(k)": config.curriculum}
        bent = [name for name, law in laws.items() if "K" in law and OmegaConf.is_interpolation(law, "K")]
        if bent:
            yield f"; {' and '.join(bent)} follow{'s' * (len(bent) == 1)} the new horizon from here on"
    if "data.batch_size" in changed:
        yield "; step k takes the samples from k x the new batch size on, in the order of the seed"


def compare_with_checkpoint(
    config: DictConfig,
    experiment: str,
    checkpoint: dict[str, Any],
    where: str,
    given: Sequence[str],
    again: Callable[[], str | None] = lambda: None,
) -> Continuation:
    """What goes on differently; refuses what would be another run.

    Args:
        config: as composed.
        experiment: name of the run. Another name alone is no difference: a recipe may be written in two ways.
        checkpoint: to go on from; an old one is compared by what it has.
        where: it is, as an override, for messages.
        given: keys of the command line.
        again: the command that goes on with the checkpoint's run, where it is known.

    Raises:
        UserError: names the first value that may not change.
    """
    if (cut := debug_of(checkpoint["config"])) and debug_of(config) is None:
        raise UserError(
            f"{where} holds a debug run ({cut}), which no ordinary run goes on from: begin in a new run_dir"
        )
    found = find_differences(checkpoint["config"], config, given)
    refused = [difference for difference in found if not difference.effect.allowed]
    there = checkpoint.get("experiment")
    if refused and there is not None and experiment != there:
        line, theirs = again(), " ".join(overrides_of(there))
        raise UserError(
            f"experiment is {experiment} here and {there} in {where}: give {theirs} to go on, and the other "
            f"overrides of that run{f': {line}' if line else ''}"
        )
    if refused:
        raise UserError(refusal_of_changes(refused, config, where))
    return Continuation(checkpoint["global_step"], where, found)


def refusal_of_changes(refused: list[Difference], config: DictConfig, where: str) -> str:
    """The first difference, the names of the others, and what to do."""
    first, *others = sorted(refused, key=lambda difference: not difference.key.endswith(PART))
    names = ", ".join(dict.fromkeys(other.name for other in others))
    more = f" (these differ as well: {names})" if others else ""
    return (
        f"{first} in {where}{more}: {first.remedy} to go on, or {how_to_begin_anew(refused, config, where)}"
    )


def how_to_begin_anew(refused: list[Difference], config: DictConfig, where: str) -> str:
    """How to begin another run, from the weights of this one if they fit."""
    fit = not any(difference.key.startswith(NETWORK) for difference in refused)
    if fit and "start" in (parameters(config.module._target_) or {}):
        place = path_argument("teacher.path", where.partition("=")[2])
        return f"begin a new run from these weights with start=teacher {place} and another run_dir"
    return "begin a new run in another run_dir"


def nothing_left(config: DictConfig, going_on: Continuation, directory: Path) -> str | None:
    """A line for a run that has made all its steps and has ended; None where something is left to do."""
    step, end = going_on.step, config.trainer.max_steps
    if step is None or step < end or (step == end and read_outcome(directory).get("steps") != step):
        return None
    return (
        f"nothing is left to do: {going_on.where} is at step {step} of trainer.max_steps={end}; raise "
        "trainer.max_steps to go on"
    )


def read_outcome(directory: Path) -> dict[str, Any]:
    """What result.json says, where there is one."""
    path = directory / "result.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def metric_value(metric: str | None, metrics: dict[str, Any]) -> float | None:
    """The value that a sweep optimises, of a run that has ended; NaN is null in a file."""
    numbers = {name: math.nan if value is None else value for name, value in metrics.items()}
    return pick(metric, numbers) if numbers else None


def override_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of a command line."""
    return [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides]


def checkpoint_override(ckpt: Path, directory: Path) -> str:
    """Where a checkpoint is, as an override."""
    ours = ckpt.resolve().parent == (directory / "checkpoints").resolve()
    return f"run_dir={directory}" if ours else f"ckpt_path={ckpt}"


def absent_as_none(value: Any) -> Any:
    """As a checkpoint and JSON can hold it."""
    return None if value is ABSENT else value
