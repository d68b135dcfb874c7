"""Images from a checkpoint."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from consistency.lit.data.module import DataModule
from consistency.lit.module import Module
from consistency.metrics.picture import picture
from consistency.tasks.requests import sampled


@dataclass(frozen=True)
class Sample:
    """Draws `count` samples with every sampler of the checkpoint, and writes a picture for each.

    Args:
        count: number of samples; sample i is the same for every count and batch.
        batch: samples a forward.
        seed: which samples.
    """

    count: int = 64
    batch: int = 64
    seed: int = 0

    def __call__(
        self, module: Module, data: DataModule, config: DictConfig, directory: Path
    ) -> tuple[dict[str, float], dict[str, str], int]:
        """Metrics (none), paths by name, images made."""
        made: dict[str, list[Tensor]] = {}
        for samples in sampled(module, data, self.count, self.batch, self.seed):
            for name, x in samples.items():
                made.setdefault(name, []).append(data.decode(x).cpu())
        paths = {}
        for name, parts in made.items():
            path = directory / f"{name}.png"
            picture(torch.cat(parts), self.count).save(path)
            paths[name] = str(path)
        return {}, paths, self.count * len(made)
