"""What a task has at hand: the trained checkpoint where it computes, a folder, and numbers already known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from lightning import Fabric

from consistency.files.config import FileConfig
from consistency.library.model import Model
from consistency.lit.data.module import DataModule
from consistency.metrics import protocol
from consistency.metrics.card import Card, Memo, code_version
from consistency.metrics.judge import Judge
from consistency.sampling.samplers import Sampler
from consistency.table import Table


@dataclass(frozen=True, eq=False)
class Trained(Model):
    """A model where it computes, with what judges it. Data and judge are made when they are first asked for.

    Args:
        own: the samplers of its run, as its config has them; `samplers` are these, with the σ lists that were
            found for these weights where `follows`.
        make_data: makes the data that it was trained on, the same every time.
        make_judge: likewise the judge of its samples.
        file: the config of its file, of which more may be built; None where it has none.
        follows: whether lists that are found from here on take the place of the run's own.
    """

    own: Mapping[str, Sampler] = field(default_factory=dict, kw_only=True)
    make_data: Callable[[], DataModule] = field(kw_only=True)
    make_judge: Callable[[], Judge] = field(kw_only=True)
    file: FileConfig | None = field(default=None, kw_only=True)
    follows: bool = field(default=True, kw_only=True)

    @property
    def data(self) -> DataModule:
        """What it was trained on; read when samples are first asked for."""
        return self.make_data()

    @property
    def judge(self) -> Judge:
        """Of its samples; it may need files of its own."""
        return self.make_judge()


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
        how = protocol.protocol(sampler, judge, t.data, count, seed, self.precision, t.provenance.weights)
        return self.card_of(how)

    def card_of(self, how: dict[str, Any]) -> Card:
        """Of anything that is asked of the checkpoint: `how` is all that moves it."""
        t = self.trained
        where = t.provenance
        meaning = where.config.get("model", {})
        what = protocol.model(where.experiment, t.role, where.step, where.weights_sha256, meaning, t.codec)
        return Card(what, how, code_version(), self.commit)


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
