"""Pictures of the samples of each validation, which are made from the same noise."""

from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from consistency.errors import within
from consistency.files.atomic import write_file
from consistency.lit.data.module import data_of
from consistency.lit.loggers.base import log_picture
from consistency.metrics.picture import picture


class SampleGrid(Callback):
    """Draws a grid of images, or a scatter plot of points, for each sampler, to the loggers and to files.

    Args:
        directory: for the pictures; the newest of each sampler is `<name>.png`.
        count: number of images in a grid; a scatter plot has all points of the first process.
    """

    def __init__(self, directory: str, count: int = 64) -> None:
        within("callbacks.samples", 1, 10_000, count=count)
        self.directory, self.count = Path(directory), count
        self.kept: dict[str, list[Tensor]] = {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: dict[str, Tensor], *_: Any
    ) -> None:
        """Keep the first samples of the first process."""
        if not trainer.is_global_zero:
            return
        visible = data_of(trainer).codec.visible
        for name, x in outputs.items():
            kept = self.kept.setdefault(name, [])
            if not visible or sum(map(len, kept)) < self.count:
                kept.append(x.detach().cpu())

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the pictures, and write them."""
        data = data_of(trainer)
        for name, batches in self.kept.items():
            image = picture(data.codec.decode(torch.cat(batches)), self.count)
            self._write(name, image, trainer)
        self.kept.clear()

    def _write(self, name: str, image: Any, trainer: Trainer) -> None:
        for file in (f"{name}.png", f"{name}-{trainer.global_step:08d}.png"):
            write_file(self.directory / file, image.save)
        log_picture(trainer, f"samples/{name}", lambda: image)
