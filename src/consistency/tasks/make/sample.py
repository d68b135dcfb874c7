"""Images from a checkpoint: as many as wanted, each the same however they are made."""

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from consistency.errors import UserError, at_least
from consistency.files.atomic import write_file, write_text
from consistency.metrics.memorisation import Neighbours, neighbours
from consistency.metrics.picture import beside, picture
from consistency.metrics.processes import everybodys, from_first, rank, undeal
from consistency.metrics.protocol import describe_sampler
from consistency.sampling.samplers import Sampler
from consistency.tasks.make.files import Array, Files, Keeper
from consistency.tasks.measure.schedules import chosen_samplers
from consistency.tasks.requests import check_samples, sampled
from consistency.tasks.session import Outcome, Session, Trained


@dataclass(frozen=True)
class Sample:
    """Draws `count` samples with every sampler; the same command in the same run_dir goes on where it was.

    Args:
        count: number of samples; sample i is the same for every count, batch and number of processes.
        batch: samples a forward.
        seed: which samples.
        samplers: names of those to use; None for all.
        labels: classes, one after the other and again; None takes all in turn. Of conditional models.
        files: write every sample as a PNG.
        array: write all samples of a sampler as one array, uint8 [count, C, H, W] or float32 [count, D].
        grid: samples in the picture.
        nearest: samples whose nearest training images are looked for; 0 for none.
    """

    count: int = 64
    batch: int = 64
    seed: int = 0
    samplers: Sequence[str] | None = None
    labels: int | Sequence[int] | None = None
    files: bool = False
    array: bool = False
    grid: int = 64
    nearest: int = 16

    def __post_init__(self) -> None:
        check_samples(self.count, self.batch, self.seed)
        at_least("task", grid=self.grid)
        at_least("task", 0, nearest=self.nearest)

    def __call__(self, session: Session) -> Outcome:
        """A picture per sampler, and one of its samples beside their nearest training images."""
        samplers = chosen_samplers(session.trained, self.samplers)
        labels = self._check(session.trained)
        from_first(lambda: check_same_samples(session, asdict(self), samplers))
        metrics, paths = {}, {}
        for name, sampler in samplers.items():
            shown = self._draw(session, name, sampler, labels)
            if rank() == 0:
                paths[name] = str(session.directory / f"{name}.png")
                write_file(Path(paths[name]), picture(shown, self.grid).save)
                metrics |= self._look_around(session, name, shown, paths)
        return Outcome(metrics=metrics, paths=paths, images=self.count * len(samplers))

    def _check(self, trained: Trained) -> list[int] | None:
        """Before anything is written: the classes that were asked for."""
        if self.files and not trained.codec.visible:
            raise UserError(
                "task.files=true writes images, and these samples are points: use task.array=true"
            )
        if self.nearest:  # training images are there before anything is made
            self._open_data(trained)
        return trained.checked_labels(f"task.labels={self.labels}", self.labels)

    def _open_data(self, trained: Trained) -> None:
        try:
            from_first(lambda: trained.data.setup())
        except UserError as error:
            raise UserError(f"{error}; or make samples without training images: task.nearest=0") from error

    def _draw(self, session: Session, name: str, sampler: Sampler, labels: Sequence[int] | None) -> Tensor:
        """Make and keep all samples; the first few of them come back, decoded."""
        codec, few = session.trained.codec, max(self.grid, self.nearest)
        shown: list[Tensor] = []
        with ExitStack() as stack:
            keepers = [stack.enter_context(k) for k in self._keepers(session, name)]

            def known(index: range) -> bool:
                return bool(keepers) and index.start >= few and all(k.has(index) for k in keepers)

            for part in sampled(session, sampler, self.count, self.batch, self.seed, name, labels, known):
                images = codec.decode(part.x).cpu()
                for keeper in keepers:
                    keeper.keep(part.index, images)
                shown.append(images if part.index.start < few else images[:0])
        return torch.cat(undeal(everybodys(shown)))[:few]

    def _keepers(self, session: Session, name: str) -> list[Keeper]:
        t, found = session.trained, list[Keeper]()
        if self.files:
            found.append(Files(session.directory / name, t.sample_shape))
        if self.array:
            dtype = torch.uint8 if t.codec.visible else torch.float32
            found.append(Array(session.directory / f"{name}.npy", (self.count, *t.sample_shape), dtype))
        return found

    def _look_around(
        self, session: Session, name: str, shown: Tensor, paths: dict[str, str]
    ) -> dict[str, float]:
        """Nearest training images of the first samples: a picture, and how many are copies."""
        if not self.nearest or len(real := session.trained.data.real()) < 2:
            return {}
        found: Neighbours = neighbours(shown[: self.nearest], real)
        if session.trained.codec.visible:
            paths[f"{name}-nearest"] = str(session.directory / f"{name}-nearest.png")
            write_file(Path(paths[f"{name}-nearest"]), beside(shown[: self.nearest], real[found.index]).save)
        return {f"memorised/{name}": found.memorised}


def check_same_samples(session: Session, words: dict[str, object], samplers: dict[str, Sampler]) -> None:
    """Refuse to mix samples: a folder that was begun with other weights or words stays as it is."""
    path = session.directory / "sample.json"
    how = {key: value for key, value in words.items() if key not in ("batch", "grid", "nearest")}
    how["recipes"] = {name: describe_sampler(sampler) for name, sampler in samplers.items()}
    card = session.card_of({**how, "precision": session.precision})
    mine = json.dumps({"model": card.model, "how": card.protocol}, indent=2) + "\n"
    kept = [session.directory / name for key in samplers for name in (key, f"{key}.partial.npy")]
    if not path.is_file() and (strange := [p for p in kept if p.is_dir() or p.is_file()]):
        raise UserError(
            f"{strange[0]} holds samples, and sample.json, which says of what, is gone: choose another "
            "run_dir"
        )
    if path.is_file() and path.read_text("utf-8", "replace") != mine:
        raise UserError(
            f"run_dir={session.directory} holds samples made with other weights or other words: "
            "choose another run_dir, or repeat the command that began it"
        )
    write_text(path, mine)
