"""What a task has at hand: the trained checkpoint where it computes, a folder, and numbers already known."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lightning import Fabric
from omegaconf import DictConfig

from consistency.lit import protocol
from consistency.lit.data.module import DataModule
from consistency.lit.module import Module
from consistency.metrics.card import Card, Memo, code
from consistency.metrics.judge import Judge
from consistency.sampling.samplers import Recipe


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained checkpoint.

    Args:
        path: of the file.
        step: optimiser steps that it took.
        experiment: that was trained; None where the checkpoint does not say.
        config: of its run, resolved.
        data: that it was trained on.
        module: with the weights that were asked for, in evaluation mode, where it computes.
        weights: which those are: an average by name, or raw.
        weights_sha256: their hash.
        samplers: how images are made, by name: those of its run, and σ lists found for these weights.
        judge: of its samples.
    """

    path: Path
    step: int
    experiment: str | None
    config: DictConfig
    data: DataModule
    module: Module
    weights: str
    weights_sha256: str
    samplers: Mapping[str, Recipe]
    judge: Judge

    @property
    def run(self) -> Path:
        """The directory of the run that made it."""
        return self.path.resolve().parent.parent


class Session:
    """One call of eval.py.

    Args:
        directory: where the task leaves what it makes.
        fabric: the processes and their devices, launched.
        precision: in which they compute.
        memo: numbers that are known already.
        commit: of this program, for cards.
        open_checkpoint: opens the checkpoint, for tasks that ask for one.
    """

    def __init__(
        self,
        directory: Path,
        fabric: Fabric,
        precision: str,
        memo: Memo,
        commit: str | None,
        open_checkpoint: Callable[[], Trained],
    ) -> None:
        self.directory, self.fabric, self.precision = directory, fabric, precision
        self.memo, self.commit = memo, commit
        self._open = open_checkpoint

    @cached_property
    def trained(self) -> Trained:
        """The checkpoint, opened when it is first asked for."""
        return self._open()

    def card(self, recipe: Recipe, judge: Judge, count: int, seed: int) -> Card:
        """Of a number that the judge, who has seen the data, gives for samples of a recipe."""
        t = self.trained
        how = protocol.protocol(recipe, judge, t.data, count, seed, self.precision, t.weights)
        return self.card_of(how)

    def card_of(self, how: dict[str, Any]) -> Card:
        """Of anything that is asked of the checkpoint: `how` is all that moves it."""
        t = self.trained
        what = protocol.model(t.experiment, t.step, t.weights_sha256, t.config.denoiser)
        return Card(what, how, code(), self.commit)


@dataclass(frozen=True)
class Outcome:
    """What a task has to say.

    Args:
        metrics: numbers by `metric/name`.
        paths: files for people, by name.
        images: samples that were made.
        numbers: with their cards, as they stand in result.json.
        text: printed at the end.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    images: int = 0
    numbers: list[dict[str, Any]] = field(default_factory=list)
    text: str = ""


class Task(Protocol):
    """session -> outcome."""

    def __call__(self, session: Session) -> Outcome:
        """Do what was asked."""
        ...
