"""How far a checkpoint's samples are from its data."""

from dataclasses import dataclass
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import DictConfig

from consistency.lit.data.module import DataModule
from consistency.lit.module import Module
from consistency.metrics.judge import Judge
from consistency.tasks.requests import sampled


@dataclass(frozen=True)
class Fidelity:
    """The metric of the checkpoint's own config, over `count` samples of every sampler.

    Args:
        count: number of samples; published FIDs take 50,000.
        batch: samples a forward.
        seed: which samples.
    """

    count: int = 10_000
    batch: int = 500
    seed: int = 0

    def __call__(
        self, module: Module, data: DataModule, config: DictConfig, directory: Path
    ) -> tuple[dict[str, float], dict[str, str], int]:
        """Metrics by name, paths (none), images made."""
        judge: Judge = instantiate(config.metric, _convert_="all")
        judge.begin(data.real(), module.device)
        for samples in sampled(module, data, self.count, self.batch, self.seed):
            for name, x in samples.items():
                judge.update(name, data.decode(x))
        return judge.compute(), {}, self.count * len(module.samplers)
