"""task=sample: samples of a checkpoint, reproducible one by one, with their nearest training images."""

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
from consistency.tasks.make.files import Array, Files, SampleStore
from consistency.tasks.requests import check_samples, generate_samples
from consistency.tasks.schedules import chosen_samplers
from consistency.tasks.session import Outcome, Session, Trained


@dataclass(frozen=True)
class Sample:
    """Draws `count` samples with every sampler. The same command with the same run_dir resumes.

    Args:
        count: number of samples; sample i is the same for every count, batch and number of processes.
        batch: samples per network call.
        seed: of the samples' noise.
        samplers: names of the samplers to use; None for all.
        labels: classes for conditional models, repeated as needed; None takes all classes in turn.
        files: write every sample as a PNG.
        array: write all samples of a sampler as one array, uint8 [count, C, H, W] or float32 [count, D].
        grid: number of samples in the picture.
        nearest: number of samples for which the nearest training images are searched; 0 for none.
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
        """Write a picture per sampler, and one with samples beside their nearest training images."""
        samplers = chosen_samplers(session.trained, self.samplers)
        labels = self._check_arguments(session.trained)
        from_first(lambda: check_same_samples(session, asdict(self), samplers))
        metrics, paths = {}, {}
        for name, sampler in samplers.items():
            first = self._draw_samples(session, name, sampler, labels)
            if rank() == 0:
                paths[name] = str(session.directory / f"{name}.png")
                write_file(Path(paths[name]), picture(first, self.grid).save)
                metrics |= self._find_neighbours(session, name, first, paths)
        return Outcome(metrics=metrics, paths=paths, images=self.count * len(samplers))

    def _check_arguments(self, trained: Trained) -> list[int] | None:
        """The checked labels; refuses arguments that do not suit the model before any file is written."""
        if self.files and not trained.codec.visible:
            raise UserError(
                "task.files=true writes images, and these samples are points: use task.array=true"
            )
        if self.nearest:  # check that the training images can be read
            try:
                from_first(lambda: trained.data.setup())
            except UserError as error:
                raise UserError(
                    f"{error}; or make samples without training images: task.nearest=0"
                ) from error
        return trained.checked_labels(f"task.labels={self.labels}", self.labels)

    def _draw_samples(
        self, session: Session, name: str, sampler: Sampler, labels: Sequence[int] | None
    ) -> Tensor:
        """Make and store all samples; returns the first ones, decoded, for the pictures."""
        codec, few = session.trained.codec, max(self.grid, self.nearest)
        first: list[Tensor] = []
        with ExitStack() as stack:
            stores = [stack.enter_context(store) for store in self._open_stores(session, name)]

            def is_saved(index: range) -> bool:
                return bool(stores) and index.start >= few and all(store.has(index) for store in stores)

            parts = generate_samples(
                session, sampler, self.count, self.batch, self.seed, name, labels, is_saved
            )
            for part in parts:
                images = codec.decode(part.x).cpu()
                for store in stores:
                    store.keep(part.index, images)
                first.append(images if part.index.start < few else images[:0])
        return torch.cat(undeal(everybodys(first)))[:few]

    def _open_stores(self, session: Session, name: str) -> list[SampleStore]:
        """The files to write: PNGs, an array, both or neither."""
        t, stores = session.trained, list[SampleStore]()
        if self.files:
            stores.append(Files(session.directory / name, t.sample_shape))
        if self.array:
            dtype = torch.uint8 if t.codec.visible else torch.float32
            stores.append(Array(session.directory / f"{name}.npy", (self.count, *t.sample_shape), dtype))
        return stores

    def _find_neighbours(
        self, session: Session, name: str, samples: Tensor, paths: dict[str, str]
    ) -> dict[str, float]:
        """Draw the first samples beside their nearest training images; returns the share of copies."""
        if not self.nearest or len(real := session.trained.data.real()) < 2:
            return {}
        found: Neighbours = neighbours(samples[: self.nearest], real)
        if session.trained.codec.visible:
            paths[f"{name}-nearest"] = str(session.directory / f"{name}-nearest.png")
            write_file(
                Path(paths[f"{name}-nearest"]), beside(samples[: self.nearest], real[found.index]).save
            )
        return {f"memorised/{name}": found.memorised}


def check_same_samples(session: Session, arguments: dict[str, object], samplers: dict[str, Sampler]) -> None:
    """Write `sample.json` with the model and the arguments, so that a folder holds samples of one command.

    Raises:
        UserError: the folder holds samples of another model or of other arguments, or of unknown ones.
    """
    path = session.directory / "sample.json"
    settings = {key: value for key, value in arguments.items() if key not in ("batch", "grid", "nearest")}
    settings["recipes"] = {name: describe_sampler(sampler) for name, sampler in samplers.items()}
    card = session.make_card({**settings, "precision": session.precision})
    text = json.dumps({"model": card.model, "how": card.protocol}, indent=2) + "\n"
    outputs = [session.directory / name for key in samplers for name in (key, f"{key}.partial.npy")]
    if not path.is_file() and (orphans := [p for p in outputs if p.is_dir() or p.is_file()]):
        raise UserError(
            f"{orphans[0]} holds samples, but sample.json, which names their model and arguments, "
            "is missing: choose another run_dir"
        )
    if path.is_file() and path.read_text("utf-8", "replace") != text:
        raise UserError(
            f"run_dir={session.directory} holds samples made with other weights or other arguments: "
            "choose another run_dir, or repeat the command that began it"
        )
    write_text(path, text)
