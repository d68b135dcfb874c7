"""Walks from sample to sample along great circles of noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from consistency.errors import UserError, check_seed, within
from consistency.files.atomic import write_file
from consistency.library.model import Model
from consistency.metrics.picture import grid
from consistency.metrics.processes import rank
from consistency.sampling.editing import walk_noise
from consistency.schedule.draws import ImageDraws
from consistency.tasks.make.inputs import Given, check_images
from consistency.tasks.session import Outcome, Session

FORMATS = (".png", ".webp", ".gif")


@dataclass(frozen=True)
class Interpolate:
    """Several walks at once, each over `stops` samples and back to the first; one network call a frame.

    Stop k of walk i is sample i·stops + k of task=sample in one step, with the same seed.

    Args:
        samples: walks.
        stops: samples on a walk, at least 2.
        frames: from a stop to the next.
        seed: of the noise.
        label: class of the samples, of conditional models; None takes all in turn, one for each walk.
        animation: name of the animated picture, .png (APNG), .webp or .gif.
        milliseconds: that a frame is shown.
        size: pixels of the animation's side, at least; small images are enlarged by whole factors.
        input: there must be none.
    """

    samples: int = 16
    stops: int = 4
    frames: int = 12
    seed: int = 0
    label: int | None = None
    animation: str = "walk.webp"
    milliseconds: int = 80
    size: int = 480
    input: Given = None

    def __post_init__(self) -> None:
        check_seed("task.seed", self.seed)
        within("task", 1, 10_000, samples=self.samples)
        within("task", 1, 1000, frames=self.frames)
        within("task", 2, 1000, stops=self.stops)
        within("task", 1, 8192, size=self.size)
        within("task", 1, 60_000, milliseconds=self.milliseconds)
        if Path(self.animation).suffix not in FORMATS:
            raise UserError(f"task.animation={self.animation} must end in one of: {', '.join(FORMATS)}")

    def __call__(self, session: Session) -> Outcome:
        """The animation, and a grid with a row for each walk, from its first stop to the second."""
        t = session.trained
        self._check(t)
        z = self._noise(t.shape).to(t.device)  # [samples, stops, ...]
        stops = [*z.unbind(1), z[:, 0]]
        c = t.condition(range(self.samples), t.checked_labels(f"task.label={self.label}", self.label))
        with session.fabric.autocast():
            frames = walk_noise(t.f, stops, self.frames, t.sigma.max, c)
        images = [t.codec.decode(frame).cpu() for frame in frames]
        animation, picture = session.directory / self.animation, session.directory / "grid.png"
        if rank() == 0:
            shown = torch.stack(images[: self.frames + 1], 1).flatten(0, 1)
            write_file(picture, grid(shown, self.size, columns=self.frames + 1).save)
            animate([grid(image, self.size) for image in images[:-1]], animation, self.milliseconds)
        return Outcome(
            paths={"animation": str(animation), "grid": str(picture)}, images=self.samples * len(images)
        )

    def _noise(self, shape: Sequence[int]) -> Tensor:
        count = self.samples * self.stops
        z = ImageDraws(self.seed, range(count)).normal(torch.empty(count, *shape))
        return z.unflatten(0, (self.samples, self.stops))

    def _check(self, model: Model) -> None:
        if self.input is not None:
            raise UserError(f"input={self.input}: edit=interpolate walks between samples; leave input away")
        check_images(model)


def animate(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """One file that shows the frames for ever, in the format of its suffix."""
    first, *others = frames
    how = {"save_all": True, "append_images": others, "duration": milliseconds, "loop": 0}
    write_file(path, partial(first.save, **how, lossless=True))
