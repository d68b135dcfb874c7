"""What a task has at hand: the trained checkpoint where it computes, a folder, and numbers already known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lightning import Fabric
from omegaconf import DictConfig

from consistency.lit.data.module import DataModule
from consistency.lit.module import Module
from consistency.metrics import protocol
from consistency.metrics.card import Card, Memo, code
from consistency.metrics.judge import Judge
from consistency.model.maps import Denoiser, DenoiserLike, Map
from consistency.sampling.samplers import Sampler
from consistency.table import Table


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained checkpoint.

    Args:
        path: of the file.
        step: optimiser steps that it took.
        experiment: that was trained; None where the checkpoint does not say.
        config: of its run, with what was overridden.
        written: the same as it was written, callbacks included, before an evaluation adapts it; plain data.
        data: that it was trained on.
        module: of its run, in evaluation mode, where it computes.
        f: the module's denoiser, with the weights that were asked for; or a teacher in its place.
        weights: which those are: an average by name, or raw.
        weights_sha256: their hash.
        samplers: how images are made, by name: those of its run, with the σ lists that were found for these
            weights where `follows`.
        found: all that were found or that an exported file brings, by name; a run names but some.
        make_judge: makes the judge of its samples, the same one every time.
        follows: whether lists that are found from here on take the place of the run's own.
    """

    path: Path
    step: int
    experiment: str | None
    config: DictConfig
    written: dict[str, Any]
    data: DataModule
    module: Module
    f: DenoiserLike
    weights: str
    weights_sha256: str
    samplers: Mapping[str, Sampler]
    found: Mapping[str, Sampler]
    make_judge: Callable[[], Judge]
    follows: bool = True

    @property
    def judge(self) -> Judge:
        """Of its samples; made when it is first asked for, as it may need files of its own."""
        return self.make_judge()

    @property
    def role(self) -> str:
        """Of f: `denoiser`, `consistency function` or `flow map`; a closed form is a denoiser."""
        return self.f.role if isinstance(self.f, Map) else Denoiser.role

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
        asked: what ckpt_path names, for tasks that can do with less than a checkpoint; None for nothing.
    """

    def __init__(
        self,
        directory: Path,
        fabric: Fabric,
        precision: str,
        memo: Memo,
        commit: str | None,
        open_checkpoint: Callable[[], Trained],
        asked: Path | None = None,
    ) -> None:
        self.directory, self.fabric, self.precision = directory, fabric, precision
        self.memo, self.commit = memo, commit
        self._open, self.asked = open_checkpoint, asked

    @cached_property
    def trained(self) -> Trained:
        """The checkpoint, opened when it is first asked for."""
        return self._open()

    def about(self, trained: Trained) -> "Session":
        """The same session about something else, such as the teacher."""
        other = Session(
            self.directory, self.fabric, self.precision, self.memo, self.commit, self._open, self.asked
        )
        other.trained = trained
        return other

    def card(self, sampler: Sampler, judge: Judge, count: int, seed: int) -> Card:
        """Of a number that the judge, who has seen the data, gives for samples of a sampler."""
        t = self.trained
        how = protocol.protocol(sampler, judge, t.data, count, seed, self.precision, t.weights)
        return self.card_of(how)

    def card_of(self, how: dict[str, Any]) -> Card:
        """Of anything that is asked of the checkpoint: `how` is all that moves it."""
        t = self.trained
        what = protocol.model(t.experiment, t.role, t.step, t.weights_sha256, t.config.model, t.data)
        return Card(what, how, code(), self.commit)


@dataclass(frozen=True)
class Outcome:
    """What a task has to say.

    Args:
        metrics: numbers by `metric/name`.
        paths: files for people, by name.
        images: samples that were made.
        numbers: with their cards, as they stand in result.json.
        tables: for people.
        printed: how many of them, the first, are printed at the end; None for all.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    images: int = 0
    numbers: list[dict[str, Any]] = field(default_factory=list)
    tables: Sequence[Table] = ()
    printed: int | None = None

    def text(self) -> str:
        """The tables that are printed."""
        return "".join(f"{table.text()}\n\n" for table in self.tables[: self.printed]).removesuffix("\n")


class Task(Protocol):
    """session -> outcome."""

    def __call__(self, session: Session) -> Outcome:
        """Do what was asked."""
        ...
