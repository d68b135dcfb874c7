"""edit=interpolate: animations from sample to sample, along great circles of noise."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from PIL import Image

from consistency.errors import UserError, check_seed, within
from consistency.files.atomic import write_file
from consistency.metrics.picture import grid
from consistency.metrics.processes import rank
from consistency.sampling.editing import walk_noise
from consistency.schedule.draws import ImageDraws
from consistency.tasks.make.inputs import InputPaths, check_images
from consistency.tasks.session import Outcome, Session

FORMATS = (".png", ".webp", ".gif")


@dataclass(frozen=True)
class Interpolate:
    """Several walks, each through `stops` samples and back to the first; one network call per frame.

    Stop k of walk i is sample i·stops + k of task=sample in one step, with the same seed.

    Args:
        samples: number of walks.
        stops: samples on a walk, at least 2.
        frames: number of frames from one stop to the next.
        seed: of the noise.
        label: class of the samples, for conditional models; None takes all in turn, one per walk.
        animation: file name of the animation, ending in .png (APNG), .webp or .gif.
        milliseconds: duration of a frame.
        size: least side of the animation in pixels; small images are enlarged by whole factors.
        input: must be None; the key exists because the other edits have it.
    """

    samples: int = 16
    stops: int = 4
    frames: int = 12
    seed: int = 0
    label: int | None = None
    animation: str = "walk.webp"
    milliseconds: int = 80
    size: int = 480
    input: InputPaths = None

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
        """Write the animation, and a grid whose rows are the walks from their first stop to the second."""
        t = session.trained
        if self.input is not None:
            raise UserError(f"input={self.input}: edit=interpolate walks between samples; leave input away")
        check_images(t)
        count = self.samples * self.stops
        z = ImageDraws(self.seed, range(count)).normal(torch.empty(count, *t.shape)).to(t.device)
        z = z.unflatten(0, (self.samples, self.stops))
        stops = [*z.unbind(1), z[:, 0]]
        c = t.condition(range(self.samples), t.checked_labels(f"task.label={self.label}", self.label))
        with session.fabric.autocast():
            frames = walk_noise(t.f, stops, self.frames, t.sigma.max, c)
        images = [t.codec.decode(frame).cpu() for frame in frames]
        animation, picture = session.directory / self.animation, session.directory / "grid.png"
        if rank() == 0:
            rows = torch.stack(images[: self.frames + 1], 1).flatten(0, 1)
            write_file(picture, grid(rows, self.size, columns=self.frames + 1).save)
            animate([grid(image, self.size) for image in images[:-1]], animation, self.milliseconds)
        return Outcome(
            paths={"animation": str(animation), "grid": str(picture)}, images=self.samples * len(images)
        )


def animate(frames: Sequence[Image.Image], path: Path, milliseconds: int) -> None:
    """Write an animation that repeats without end, in the format of the file's suffix."""
    first, *others = frames
    options = {"save_all": True, "append_images": others, "duration": milliseconds, "loop": 0}
    write_file(path, partial(first.save, **options, lossless=True))
