"""Compares the config of a resumed run with that of its checkpoint, and refuses what makes it another run."""

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

NETWORK = ("net", "precond", "model", "coordinate", "data")  # sections that determine the shapes of weights


@dataclass(frozen=True)
class Continuation:
    """How a run continues a checkpoint.

    Args:
        step: of the checkpoint; None for a new run.
        where: override that leads to the checkpoint, for messages.
        changes: values that differ from those in the checkpoint.
    """

    step: int | None = None
    where: str = ""
    changes: list[Difference] = field(default_factory=list)

    @property
    def changed(self) -> dict[str, list[Any]]:
        """Key -> [old, new] as plain data, for changes that are reported."""
        return {
            c.name: [absent_as_none(c.there), absent_as_none(c.here)]
            for c in self.changes
            if c.effect.reported
        }

    def line(self, config: DictConfig) -> str | None:
        """A line about the changes from this step on; None where nothing has changed."""
        reported = [
            f"{key}={override_text(new)} (was {override_text(old)})"
            for key, (old, new) in self.changed.items()
        ]
        if not reported:
            return None
        return f"from step {self.step} on: {', '.join(reported)}{''.join(notes(self.changed, config))}"


def notes(changed: dict[str, list[Any]], config: DictConfig) -> Iterator[str]:
    """Yield remarks on consequences of changes."""
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
    """Compare the config of a run with that in the checkpoint that it resumes from.

    Args:
        config: as composed.
        experiment: name of the run. Another name alone is no difference, as a recipe may have two names.
        checkpoint: content of the file; keys that an older version lacks are not compared.
        where: override that leads to the checkpoint, for messages.
        given: keys of the command line.
        again: () -> the command that resumes the checkpoint's run; None where it is not known.

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
    """The message about changes that are refused: the first, the names of the others, and the remedy."""
    first, *others = sorted(refused, key=lambda difference: not difference.key.endswith(PART))
    names = ", ".join(dict.fromkeys(other.name for other in others))
    more = f" (these differ as well: {names})" if others else ""
    return (
        f"{first} in {where}{more}: {first.remedy} to go on, or {how_to_begin_anew(refused, config, where)}"
    )


def how_to_begin_anew(refused: list[Difference], config: DictConfig, where: str) -> str:
    """How to start a new run, from the weights of the checkpoint if they fit."""
    fit = not any(difference.key.startswith(NETWORK) for difference in refused)
    if fit and "start" in (parameters(config.module._target_) or {}):
        place = path_argument("teacher.path", where.partition("=")[2])
        return f"begin a new run from these weights with start=teacher {place} and another run_dir"
    return "begin a new run in another run_dir"


def nothing_left(config: DictConfig, going_on: Continuation, directory: Path) -> str | None:
    """A line for a run that has ended at its last step; None where steps or its result are missing."""
    step, end = going_on.step, config.trainer.max_steps
    if step is None or step < end or (step == end and read_outcome(directory).get("steps") != step):
        return None
    return (
        f"nothing is left to do: {going_on.where} is at step {step} of trainer.max_steps={end}; raise "
        "trainer.max_steps to go on"
    )


def read_outcome(directory: Path) -> dict[str, Any]:
    """The content of result.json; empty where there is none."""
    path = directory / "result.json"
    return json.loads(path.read_text("utf-8")) if path.is_file() else {}


def metric_value(metric: str | None, metrics: dict[str, Any]) -> float | None:
    """The metric that a sweep optimises, from a result.json, in which null stands for NaN."""
    numbers = {name: math.nan if value is None else value for name, value in metrics.items()}
    return pick(metric, numbers) if numbers else None


def override_keys(overrides: Sequence[str]) -> list[str]:
    """The keys of overrides, without signs and packages."""
    return [override.lstrip("+~").partition("=")[0].partition("@")[0] for override in overrides]


def checkpoint_override(ckpt: Path, directory: Path) -> str:
    """The override that leads to a checkpoint: run_dir for one of this directory, else ckpt_path."""
    ours = ckpt.resolve().parent == (directory / "checkpoints").resolve()
    return f"run_dir={directory}" if ours else f"ckpt_path={ckpt}"


def absent_as_none(value: Any) -> Any:
    """A value for checkpoints and JSON, with None for `ABSENT`."""
    return None if value is ABSENT else value
