"""Did training lead anywhere? Samples of the last validation beside those of the untrained network."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from consistency.data.loader import Request, RequestLoader
from consistency.errors import UserError
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.module import Module
from consistency.metrics.principal import Principal
from consistency.model.portions import uncompiled
from consistency.watch import in_pieces

SEEN = 256  # samples of the data that the axes are made of
NEARER = 0.75  # of the distance of moved samples, below which a network has learned more than a constant


@dataclass(frozen=True)
class Look:
    """Some samples, and the weights of the network. Distances are those of `Principal`.

    Args:
        step: k, of the optimiser.
        distance: of the samples from the data; NaN if they are not finite.
        moved: the same, once the mean of the samples has been moved to that of the data: as near as the
            network comes that learns a constant and nothing else.
        variance: of the samples, as a share of the data's.
        weights: norm of all weights, not averaged.
    """

    step: int
    distance: float
    moved: float
    variance: float
    weights: float


class Verdict(Callback):
    """Compares the samples that a run ends with to those that it began with.

    A few samples of the first sampler are made before the first step, and again at each validation with the
    weights that validation sees, from the same noise. `fault` says whether the last ones are

    - not finite, or
    - worse: more than `worse` times as far from the data as in the beginning, or
    - untrained: no nearer than the samples of the beginning are once they have been moved to the mean of the
      data (closer than 0.75 times that is nearer), by weights that have grown more than `grown` times. Short
      runs are no nearer either; it is the growth that tells a spoiled network from a young one.

    A run that begins with a teacher's weights is compared with the samples that these made. The beginning is
    part of the checkpoint: a resumed run is held against its own. Samples have numbers of their own, so that
    training is the same without the verdict.

    Measured on 20 experiments on digits, moons and the ring (EDM, DDPM, flow, CT, iCT, ECT, sCT, stable,
    sCD, CD):

    - after 4, 20, 60 and 200 steps of small networks at the learning rates of the configs, the distance was
      at most 1.00 of the first, and the norm of the weights at most 1.06 of it; after the 6,000 steps of
      ict_digits and edm_digits 0.18 and 0.28, and 1.48 and 1.19;
    - after 600 steps at lr=10, 9 of them were 1.7 to 14 times as far as in the beginning, and the other 11 at
      0.92 to 1.25 of the moved samples' distance, with weights that had grown 41 to 345 times;
    - the 18 that were tried at lr=1e3 were 1.7 to 61 times as far, or at 1.01 to 1.06 of the moved samples'
      distance.

    Args:
        samples: how many are looked at.
        worse: factor on the distance of the beginning, above 1.
        grown: factor on the norm of the weights, above 1.
    """

    def __init__(self, samples: int = 64, worse: float = 1.25, grown: float = 10.0) -> None:
        if samples < 2:
            raise UserError(f"callbacks.verdict.samples={samples} must be 2 or greater")
        for name, factor in {"worse": worse, "grown": grown}.items():
            if not 1 < factor < math.inf:
                raise UserError(f"callbacks.verdict.{name}={factor} must be a finite number above 1")
        self.samples, self.worse, self.grown = samples, worse, grown
        self.begin: Look | None = None
        self.end: Look | None = None
        self.axes: Principal | None = None
        self.weights = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Look at the beginning, unless a checkpoint brought what was seen then."""
        if self.begin is None and trainer.global_step == 0:
            self.weights = norm(pl_module.model)
            self.begin = self.look(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Measure the weights: this callback stands before the one that puts their average in place."""
        self.weights = norm(pl_module.model)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Look again: the average of the weights is in place."""
        self.end = self.look(trainer, pl_module)

    def look(self, trainer: Trainer, module: Module) -> Look | None:
        """What the network makes now, the same on every process; None where there is nothing to compare."""
        data = data_of(trainer)
        self.axes = self.axes or Principal.of(few_samples(data))
        if not (module.samplers and self.axes.spread):
            return None
        x = self.axes.coordinates(first_samples(trainer, module, data, self.samples))
        distance, moved = self.axes.distance(x), self.axes.distance(x - x.mean(0))
        return Look(trainer.global_step, distance, moved, self.axes.share(x), self.weights)

    def fault(self) -> str | None:
        """What is wrong with the end of the run; None if nothing is, or nothing was seen."""
        if self.end is None:
            return None
        if not math.isfinite(self.end.distance):
            return "it ended with samples that are not finite"
        return None if self.begin is None else self.compared(self.begin, self.end)

    def compared(self, begin: Look, end: Look) -> str | None:
        """What is wrong with the end, beside the beginning."""
        now = f"the distance of its samples from the data is {end.distance:.3g} (1 if they do not vary)"
        growth = end.weights / begin.weights if begin.weights else 1.0
        if end.distance > self.worse * begin.distance:
            return f"it ended worse than it began: {now}, and was {begin.distance:.3g} before the first step"
        if growth > self.grown and end.distance > NEARER * begin.moved:
            return (
                f"it ended untrained: {now}, no less than with a constant added to the first samples, "
                f"{begin.moved:.3g}, and its weights have grown {growth:.2g} times"
            )
        return None

    def to_plain(self) -> dict[str, Any]:
        """Both looks, and the fault, for result.json."""
        looks = {"begin": self.begin, "end": self.end}
        return {name: look and asdict(look) for name, look in looks.items()} | {"fault": self.fault()}

    def state_dict(self) -> dict[str, Any]:
        """The beginning."""
        return {"begin": self.begin and asdict(self.begin)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up."""
        begin = state_dict["begin"]
        self.begin = begin and Look(**begin)


def verdict_of(trainer: Trainer) -> Verdict | None:
    """The verdict of a run, if it has one."""
    return next((c for c in trainer.callbacks if isinstance(c, Verdict)), None)  # type: ignore[attr-defined]


def few_samples(data: DataModule) -> Tensor:
    """A few samples of the data, evenly spaced, as networks see them."""
    x = data.real()
    x = x[:: max(len(x) // SEEN, 1)][:SEEN]
    return data.codec.encode(x)


@torch.no_grad()
def first_samples(trainer: Trainer, module: Module, data: DataModule, count: int) -> Tensor:
    """The first samples of a validation, by the first sampler, all on this process [count, ...]."""
    sampler, f = next(iter(module.samplers.values())), module.model
    loader = RequestLoader(count, data.shape, min(data.sample_batch, count), data.seed, data.classes)
    with evaluating(f), uncompiled(f), trainer.precision_plugin.val_step_context():
        requests = (request_on_device(trainer, request) for request in loader)
        with in_pieces("samples of the verdict", sampler.nfe * count):
            D = module.paced()
            return torch.cat([sampler(D, r.z, r.c, r.draws).float().cpu() for r in requests])


def request_on_device(trainer: Trainer, request: Request) -> Request:
    """A request where the network is, in its precision."""
    return trainer.strategy.batch_to_device(trainer.precision_plugin.convert_input(request))


@contextmanager
def evaluating(net: nn.Module) -> Iterator[None]:
    """Without dropout, which draws; then every part as it was."""
    training = {part: part.training for part in net.modules()}
    net.eval()
    try:
        yield
    finally:
        for part, was in training.items():
            part.training = was


def norm(net: nn.Module) -> float:
    """Of all weights together."""
    return get_total_norm([weight.detach() for weight in net.parameters()]).item()
