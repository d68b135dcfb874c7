"""Images changed by a model: the user's own, each several times."""

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
from consistency.tasks.make.files import png
from consistency.tasks.make.inputs import Given, Inputs, check_pixel_model, inputs
from consistency.tasks.requests import check_samples, judge_distance, judging
from consistency.tasks.session import Outcome, Session


class Made(NamedTuple):
    """Some results, by the numbers of input and sample."""

    which: Sequence[tuple[int, int]]
    changed: Changed


@dataclass(frozen=True)
class Edit:
    """Changes every input `samples` times; sample s of an image is the same whatever else is asked for.

    Args:
        change: what is done.
        input: image files and folders; None takes some of the data, to try it.
        samples: of each input.
        seed: of their noise.
        batch: images a forward.
        levels: of Karras's σ list; a network call each, but for the last.
        sigmas: a list of one's own in its place, falling.
        label: class of what is made, of conditional models; None takes all in turn.
        rows: inputs in the picture.
        count: images of the data taken where there is no input; None for as many as rows.
        judged: measure by the run's own metric how far images are from the data, before and after.
    """

    change: Change
    input: Given = None
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
        """A PNG per result in `edited/`, and a strip: the input, what the model was shown, the results."""
        t = session.trained
        asked = t.checked_labels(f"task.label={self.label}", self.label)
        if self.change.of_pixels:
            check_pixel_model(t, f"task.change={type(self.change).__name__} changes")
        plan = t.plan(self.levels, self.sigmas)
        if self.judged:  # what cannot be is refused before anything is made
            judging(session)
        given = inputs(self.input, t, self.rows if self.count is None else self.count)
        rows: list[list[Tensor]] = [[] for _ in given.names]
        for made in self._made(session, given, plan, asked):
            decoded = map(t.codec.decode, made.changed)
            for (i, s), before, after in zip(made.which, *decoded, strict=True):
                rows[i] += [before, after] if s == 0 else [after]
        table = self._table(session, given, rows) if self.judged else None
        return self._kept(session.directory, given, rows, table)

    def _made(
        self, session: Session, given: Inputs, plan: EditPlan, asked: list[int] | None
    ) -> Iterator[Made]:
        """All results, a batch at a time."""
        t = session.trained
        marks = [image_mark(u) for u in given.u]
        every = [(i, s) for i in range(len(given.names)) for s in range(self.samples)]
        for first in range(0, len(every), self.batch):
            which = every[first : first + self.batch]
            sources, numbers = zip(*which, strict=True)
            x = t.codec.encode(given.u[list(sources)]).to(t.device)
            c = t.condition(numbers, asked)
            with session.fabric.autocast():
                draws = ImageDraws(self.seed, [marks[i] + s for i, s in which])
                changed = self.change(t.f, x, plan, draws, c)
            yield Made(which, Changed(*(part.cpu() for part in changed)))

    def _table(self, session: Session, given: Inputs, rows: list[list[Tensor]]) -> Table:
        """Distance from the data and PSNR: of the images, of what the model was shown, of what it made."""
        judge = judging(session)
        shown, after = (torch.stack([row[i] for row in rows]) for i in (0, 1))
        lines = []
        for name, images in ((given.source, given.u), ("before", shown), ("after", after)):
            far = judge_distance(judge, images)
            lines.append([name, f"{far:.2f}", f"{psnr(images, given.u).mean():.2f}"])
        title = f"{type(self.change).__name__} of {len(given.u)} {given.source}, the first sample of each"
        return Table(["", judge.main, "PSNR [dB]"], lines, title)

    def _kept(self, directory: Path, given: Inputs, rows: list[list[Tensor]], table: Table | None) -> Outcome:
        """Files of the results, and the strip of the first inputs."""
        folder, strip = directory / "edited", directory / "strip.png"
        if rank() == 0:
            for i, (name, (_, *results)) in enumerate(zip(given.names, rows, strict=True)):
                for s, image in enumerate(results):
                    write_file(folder / f"{i:03d}-{name}-{s}.png", png(image).save)
            shown = torch.stack([torch.stack(row) for row in rows[: self.rows]])
            write_file(strip, beside(given.u, shown, self.rows, least=480).save)
        return Outcome(
            paths={"strip": str(strip), "images": str(folder)},
            images=self.samples * len(given.names),
            tables=[table] if table else (),
        )
