"""task=edit: edits of the user's images by a model, several samples for each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.errors import within
from consistency.files.atomic import write_file
from consistency.metrics.distortion import psnr
from consistency.metrics.picture import beside
from consistency.metrics.processes import rank
from consistency.sampling.editing import Change, Changed, EditPlan, image_mark
from consistency.schedule.draws import ImageDraws
from consistency.table import Table
from consistency.tasks.make.files import to_pil
from consistency.tasks.make.inputs import InputPaths, Inputs, check_pixel_model, load_inputs
from consistency.tasks.requests import check_samples, measure_distance, prepare_judge
from consistency.tasks.session import Outcome, Session


class EditedBatch(NamedTuple):
    """A batch of edits.

    Args:
        pairs: (number of the input, number of the sample) of each.
        changed: the images that the model was given and those that it made, b of each.
    """

    pairs: Sequence[tuple[int, int]]
    changed: Changed


@dataclass(frozen=True)
class Edit:
    """Edits every input image `samples` times. Sample s of an image depends on the image, s and `seed` only.

    Args:
        change: the edit.
        input: image files and folders; None takes images of the data set.
        samples: edits of each input.
        seed: of their noise.
        batch: images per network call.
        levels: number of levels of Karras's σ list; the last one takes no network call.
        sigmas: a σ list to use instead, falling; None for Karras's.
        label: class of the results, for conditional models; None takes all classes in turn.
        rows: inputs in the picture.
        count: images taken from the data set if there is no input; None for as many as rows.
        judged: measure the distance of the images from the data before and after, by the run's metric.
    """

    change: Change
    input: InputPaths = None
    samples: int = 4
    seed: int = 0
    batch: int = 64
    levels: int = 40
    sigmas: Sequence[float] | None = None
    label: int | None = None
    rows: int = 8
    count: int | None = None
    judged: bool = False

    def __post_init__(self) -> None:
        check_samples(1 if self.count is None else self.count, self.batch, self.seed)
        within("task", 1, 10_000, samples=self.samples, rows=self.rows)
        within("task", 2, 10_000, levels=self.levels)

    def __call__(self, session: Session) -> Outcome:
        """Write a PNG per result to `edited/`, and `strip.png`: input, degraded input, results, in rows."""
        t = session.trained
        labels = t.checked_labels(f"task.label={self.label}", self.label)
        if self.change.of_pixels:
            check_pixel_model(t, f"task.change={type(self.change).__name__} changes")
        plan = t.plan(self.levels, self.sigmas)
        if self.judged:  # refuse unsuitable data before the edits are made
            prepare_judge(session)
        inputs = load_inputs(self.input, t, self.rows if self.count is None else self.count)
        rows: list[list[Tensor]] = [[] for _ in inputs.names]
        for batch in self._edit_batches(session, inputs, plan, labels):
            decoded = map(t.codec.decode, batch.changed)
            for (i, s), before, after in zip(batch.pairs, *decoded, strict=True):
                rows[i] += [before, after] if s == 0 else [after]
        table = self._judge_images(session, inputs, rows) if self.judged else None
        return self._write_images(session.directory, inputs, rows, table)

    def _edit_batches(
        self, session: Session, inputs: Inputs, plan: EditPlan, labels: list[int] | None
    ) -> Iterator[EditedBatch]:
        """All edits, a batch at a time, on the CPU."""
        t = session.trained
        marks = [image_mark(u) for u in inputs.u]
        all_pairs = [(i, s) for i in range(len(inputs.names)) for s in range(self.samples)]
        for first in range(0, len(all_pairs), self.batch):
            pairs = all_pairs[first : first + self.batch]
            sources, numbers = zip(*pairs, strict=True)
            x = t.codec.encode(inputs.u[list(sources)]).to(t.device)
            c = t.condition(numbers, labels)
            with session.fabric.autocast():
                draws = ImageDraws(self.seed, [marks[i] + s for i, s in pairs])
                changed = self.change(t.f, x, plan, draws, c)
            yield EditedBatch(pairs, Changed(*(part.cpu() for part in changed)))

    def _judge_images(self, session: Session, inputs: Inputs, rows: list[list[Tensor]]) -> Table:
        """Distance from the data, and PSNR in dB, of the inputs, the degraded inputs and the first edits."""
        judge = prepare_judge(session)
        before, after = (torch.stack([row[i] for row in rows]) for i in (0, 1))
        lines = []
        for name, images in ((inputs.source, inputs.u), ("before", before), ("after", after)):
            distance = measure_distance(judge, images)
            lines.append([name, f"{distance:.2f}", f"{psnr(images, inputs.u).mean():.2f}"])
        title = f"{type(self.change).__name__} of {len(inputs.u)} {inputs.source}, the first sample of each"
        return Table(["", judge.main, "PSNR [dB]"], lines, title)

    def _write_images(
        self, directory: Path, inputs: Inputs, rows: list[list[Tensor]], table: Table | None
    ) -> Outcome:
        """Write a PNG per edit, and the strip of the first inputs."""
        folder, strip = directory / "edited", directory / "strip.png"
        if rank() == 0:
            for i, (name, (_, *results)) in enumerate(zip(inputs.names, rows, strict=True)):
                for s, image in enumerate(results):
                    write_file(folder / f"{i:03d}-{name}-{s}.png", to_pil(image).save)
            results = torch.stack([torch.stack(row) for row in rows[: self.rows]])
            write_file(strip, beside(inputs.u, results, self.rows, least=480).save)
        return Outcome(
            paths={"strip": str(strip), "images": str(folder)},
            images=self.samples * len(inputs.names),
            tables=[table] if table else (),
        )
