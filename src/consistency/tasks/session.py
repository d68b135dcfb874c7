"""What every task receives (the checkpoint, a folder, the numbers computed before), and what it returns."""

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
    """A model on its device, with its training data and the judge of its samples, both made on first use.

    Args:
        own: the samplers in the config of its run, by name. `samplers` are the same, except that with
            `use_found` they have the σ lists that a ladder found for these weights.
        make_data: returns the data that the model was trained on, the same object every time.
        make_judge: returns the judge of its samples, the same object every time.
        file: the config in its file, from which parts of the run can be built; None if the file has none.
        use_found: whether the σ lists that a ladder finds replace those of the run.
    """

    own: Mapping[str, Sampler] = field(default_factory=dict, kw_only=True)
    make_data: Callable[[], DataModule] = field(kw_only=True)
    make_judge: Callable[[], Judge] = field(kw_only=True)
    file: FileConfig | None = field(default=None, kw_only=True)
    use_found: bool = field(default=True, kw_only=True)

    @property
    def data(self) -> DataModule:
        """The training data; files are read when samples of it are first used."""
        return self.make_data()

    @property
    def judge(self) -> Judge:
        """The judge of its samples; it may need files, such as the weights of a feature extractor."""
        return self.make_judge()


class Session:
    """One call of eval.py.

    Args:
        directory: the task writes its files here.
        fabric: the launched processes and their devices.
        precision: numeric precision of the computation, as Fabric names it.
        memo: numbers of earlier evaluations, by card.
        commit: git commit of this program, for cards; None if not known.
        open_checkpoint: opens the checkpoint, for tasks that use one.
        ckpt_path: the path that the user gave, for tasks that accept a sweep's directory too; None if none.
    """

    def __init__(
        self,
        directory: Path,
        fabric: Fabric,
        precision: str,
        memo: Memo,
        commit: str | None,
        open_checkpoint: Callable[[], Trained],
        ckpt_path: Path | None = None,
    ) -> None:
        self.directory, self.fabric, self.precision = directory, fabric, precision
        self.memo, self.commit = memo, commit
        self._open, self.ckpt_path = open_checkpoint, ckpt_path

    @cached_property
    def trained(self) -> Trained:
        """The checkpoint, opened on first use."""
        return self._open()

    def with_trained(self, trained: Trained) -> "Session":
        """The same session for another model, such as the teacher."""
        other = Session(
            self.directory, self.fabric, self.precision, self.memo, self.commit, self._open, self.ckpt_path
        )
        other.trained = trained
        return other

    def sampler_card(self, sampler: Sampler, judge: Judge, count: int, seed: int) -> Card:
        """The card of the judge's numbers for `count` samples of a sampler.

        Args:
            sampler: makes the samples.
            judge: has seen the data (`begin`).
            count: number of samples.
            seed: of their noise.
        """
        t = self.trained
        return self.make_card(
            protocol.protocol(sampler, judge, t.data, count, seed, self.precision, t.provenance.weights)
        )

    def make_card(self, settings: dict[str, Any]) -> Card:
        """The card of any measurement of the checkpoint.

        Args:
            settings: everything beside the model that changes the result, as plain data.
        """
        t, p = self.trained, self.trained.provenance
        meaning = p.config.get("model", {})
        model = protocol.model(p.experiment, t.role, p.step, p.weights_sha256, meaning, t.codec)
        return Card(model, settings, code_version(), self.commit)


@dataclass(frozen=True)
class Outcome:
    """The result of a task.

    Args:
        metrics: numbers by `metric/name`.
        paths: the files that the task wrote, by a short name.
        images: number of samples made.
        numbers: numbers with their cards, as plain data for result.json.
        tables: for the terminal and for reports.
        printed: the first `printed` tables are printed at the end; None for all.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    images: int = 0
    numbers: list[dict[str, Any]] = field(default_factory=list)
    tables: Sequence[Table] = ()
    printed: int | None = None

    def text(self) -> str:
        """The tables to print, as text."""
        return "".join(f"{table.text()}\n\n" for table in self.tables[: self.printed]).removesuffix("\n")


class Task(Protocol):
    """session -> outcome."""

    def __call__(self, session: Session) -> Outcome:
        """Run the task.

        Raises:
            UserError: the checkpoint or an argument does not suit the task.
        """
        ...
