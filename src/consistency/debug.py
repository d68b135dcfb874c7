"""`debug=`: runs a few steps of an experiment, to see that it works."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from consistency.build import build_part
from consistency.continuation import override_keys
from consistency.errors import UserError, at_least
from consistency.files.configs import file_of
from consistency.schema.check import reference_text
from consistency.teach import print_once

HORIZON = "${trainer.max_steps}"
DOWNLOADED = ("consistency.metrics.features.inception.InceptionFeatures",)


def shorten(config: DictConfig) -> "Short | None":
    """Apply the object in `debug.run` to a config, in place; None for a run without one."""
    node = OmegaConf.select(config, "debug.run")
    if node is None:
        return None
    debug_run = build_part("debug.run", node, Short)
    print_once(debug_run.shrink(config, override_keys(HydraConfig.get().overrides.task)))
    return debug_run


class Short:
    """Runs the first steps of an experiment; curriculum and learning rate keep its horizon.

    Args:
        steps: number of steps in a round, 1 or greater; a validation and a checkpoint follow each round.
        rounds: number of rounds, 1 or greater; each but the first resumes from the checkpoint before.
        name: of the option, for messages.
    """

    def __init__(self, steps: int, rounds: int = 1, name: str = "") -> None:
        at_least("debug.run", steps=steps, rounds=rounds)
        self.steps, self.rounds, self.name = steps, rounds, name

    def shrink(self, config: DictConfig, given: Sequence[str]) -> str:
        """Shorten a config in place, and return a line about the changes.

        Args:
            config: as composed.
            given: keys of the command line, whose values are kept.

        Raises:
            UserError: the command line sets trainer.max_steps or ckpt_path.
        """
        if "trainer.max_steps" in given:
            raise UserError(
                f"debug={self.name}: trainer.max_steps is the horizon of curriculum and learning rate, "
                "and stays that of the experiment; give debug.run.steps=N for the number of steps"
            )
        if config.ckpt_path is not None:
            raise UserError(f"debug={self.name} begins anew: leave ckpt_path out")
        horizon = config.trainer.max_steps
        with open_dict(config):
            fix_horizon(config, horizon)
            config.callbacks.curriculum.horizon = None  # the horizon is not the length of this run
            config.trainer.max_steps = config.trainer.val_check_interval = self.steps
            changes = [f"steps 1 to {self.steps * self.rounds} of {horizon:,}", *self.changes(config, given)]
        return f"debug={self.name}: {', '.join(changes)}; no result to compare"

    def changes(self, config: DictConfig, given: Sequence[str]) -> Iterator[str]:
        """Make further changes of the config, and yield a text on each."""
        yield from ()

    def rounds_left(self, config: DictConfig) -> Iterator[str]:
        """For each round but the first, set the config to resume for more steps, and yield a line."""
        for _ in range(self.rounds - 1):
            config.ckpt_path = "last"
            config.trainer.max_steps += self.steps
            yield f"debug: on from the checkpoint, to step {config.trainer.max_steps}"


class Smoke(Short):
    """Runs rounds on small batches within a minute; network, data and noise laws are those of the experiment.

    Args:
        steps: number of steps in a round, 1 or greater.
        rounds: number of rounds, 1 or greater.
        batch: number of samples on each process in each accumulated part of a step, 1 or greater.
        metric: option of the group `metric` that replaces one whose features would be downloaded.
        name: of the option, for messages.
    """

    def __init__(
        self, steps: int = 2, rounds: int = 2, batch: int = 2, metric: str = "random_conv", name: str = ""
    ) -> None:
        super().__init__(steps, rounds, name)
        at_least("debug.run", batch=batch)
        self.batch, self.metric = batch, metric

    def changes(self, config: DictConfig, given: Sequence[str]) -> Iterator[str]:
        """Reduce batches, samplers and stores, and replace a metric that needs a download."""
        if "data.batch_size" not in given:
            former, parts = config.data.batch_size, config.trainer.accumulate_grad_batches
            config.data.batch_size = self.batch * count_processes(config.trainer) * parts
            yield f"batches of {config.data.batch_size:,} in place of {former:,}"
        names = list(config.samplers)
        if not any(name.startswith("samplers") for name in given):
            kept = next((n for n in names if n == config.optimized_metric), names[0])
            config.samplers = {name: config.samplers[name] if name == kept else None for name in names}
            yield f"samples by {kept} alone"
        if "store" in config and "store.count" not in given:
            config.store.chunk, config.store.count = config.data.batch_size, 2 * config.data.batch_size
            yield f"a store of {config.store.count:,} rollouts"
        chosen = any(name == "metric" or name.startswith("metric.extractor") for name in given)
        if not chosen and OmegaConf.select(config, "metric.extractor._target_") in DOWNLOADED:
            config.metric = OmegaConf.load(file_of(f"metric/{self.metric}"))
            yield f"metric={self.metric}, which needs no download"


def fix_horizon(node: Any, horizon: int) -> None:
    """Replace references to `trainer.max_steps` in a mapping or a list by the number, at any depth."""
    keys: list[Any] = list(node) if isinstance(node, DictConfig) else list(range(len(node)))
    for key in keys:
        if OmegaConf.is_missing(node, key):
            continue
        if reference_text(node, key) == HORIZON:
            node[key] = horizon
        elif not OmegaConf.is_interpolation(node, key) and OmegaConf.is_config(node[key]):
            fix_horizon(node[key], horizon)


def count_processes(trainer: DictConfig) -> int:
    """Number of processes of a run: devices times machines."""
    devices = trainer.devices
    if isinstance(devices, ListConfig):
        each = len(devices)
    elif isinstance(devices, int) and devices > 0:
        each = devices
    else:
        each = max(torch.cuda.device_count(), 1)
    return each * trainer.get("num_nodes", 1)
