"""Stops a step that would spoil the run, and says at which σ.

Lightning's SpikeDetection looks when the weights have changed already, at the mean loss alone, and at ratios,
which mean nothing for negative losses; and its state cannot be loaded.
"""

import math
from typing import Any

import torch
from lightning import Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from consistency.errors import UserError, positive, within
from consistency.lit.data.module import DataModule, data_of
from consistency.lit.divergence import AbstractGuard, Collapsed, Diverged
from consistency.lit.module import Module
from consistency.metrics.spikes import Spikes
from consistency.schedule.sigma import Sigma
from consistency.tensor import geometric

BINS = 12  # equally wide in ln σ, as those of loss_by_sigma
ENOUGH = 1024  # samples of the data whose variance is taken
MOST = 1000  # rollbacks


class Guard(AbstractGuard):
    """Raises `Diverged`, and slows a run that went back because of it.

    It looks for losses and gradients that are not finite, for a spike of the loss in a bin of σ, and for a
    collapse of the variance of samples. It draws no random numbers and changes nothing in a healthy run. All
    processes look at the same sums, and so decide alike.

    Args:
        sigma_min: lower edge of the first bin.
        sigma_max: upper edge of the last, where samplers begin.
        rollbacks: how often a run may go back to its last good checkpoint.
        slower: factor on the learning rate at every rollback, in (0, 1].
        spike: how many usual distances above the mean of its bin a loss is too high.
        collapse: share of the data's variance below which no sampler may fall that once had half of it.
    """

    def __init__(
        self,
        sigma_min: float,
        sigma_max: float,
        rollbacks: int = 3,
        slower: float = 0.5,
        spike: float = 10.0,
        collapse: float = 0.1,
    ) -> None:
        Sigma(sigma_min, sigma_max)
        within("callbacks.guard", 0, MOST, rollbacks=rollbacks)
        if not 0 < slower <= 1:
            raise UserError(f"callbacks.guard.slower={slower} must be positive, and 1 at most")
        positive("callbacks.guard", spike=spike)
        if not 0 <= collapse < 0.5:
            raise UserError(f"callbacks.guard.collapse={collapse} must be at least 0, and less than 0.5")
        super().__init__(rollbacks, slower)
        self.collapse = collapse
        self.edges = geometric(sigma_min, sigma_max, BINS + 1)
        self.spikes = Spikes(BINS, spike)
        self.varied: list[str] = []  # samplers that have had half of the data's variance
        self.moments: dict[str, Tensor] = {}  # of the samples of a validation

    @property
    def calm(self) -> bool:
        """See `AbstractGuard`."""
        return self.spikes.calm

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """Where a checkpoint does not say which validation was passed, it was the last that was completed."""
        self.passed = checkpoint["callbacks"].get("Checkpoints", {}).get("validated")

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Slow a run that went back; one that had ended goes on if more rollbacks are allowed now."""
        pl_module.slower = self.factor
        self.record.ended = self.record.ended and self.record.count > self.rollbacks

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:
        """Look at the losses of all parts of the step, and at its gradient."""
        sigma = torch.cat([part.sigma for part in pl_module.seen])
        loss = torch.cat([part.loss for part in pl_module.seen])
        found = torch.cat([self._by_sigma(sigma, loss.double()), gradient_norm(trainer, optimizer)])
        found = summed(found, trainer).cpu()  # the only wait for the device
        self.check(trainer.global_step, found[:BINS], found[BINS:-1], found[-1].item())

    def check(self, step: int, loss: Tensor, count: Tensor, gradient: float) -> None:
        """Raise `Diverged` unless the step may be made.

        Args:
            step: k, of the optimiser.
            loss: sum over the samples of each bin [BINS], float64.
            count: samples of each bin [BINS].
            gradient: its norm.
        """
        if not loss.isfinite().all():
            raise self._diverged("the loss is not finite", step, ~loss.isfinite())
        mean = loss / count
        if not math.isfinite(gradient):
            largest = mean.nan_to_num(-math.inf)
            reason = "the gradient is not finite, but every loss is (the largest is named)"
            raise self._diverged(reason, step, largest == largest.max())
        spiked = self.spikes.observe(mean)
        if spiked.any():
            raise self._diverged("the loss stays far above what is usual", step, spiked)

    def on_validation_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Forget the samples of the validation before."""
        self.moments.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], *_: Any
    ) -> None:
        """Add up the samples."""
        for name, x in outputs.items():
            self.moments[name] = sample_moments(x) + self.moments.get(name, 0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Raise `Collapsed` if the variance of samples has; of the end of a run only the metrics tell."""
        if trainer.state.fn != "fit":
            return
        data = variance(sample_moments(many_samples(data_of(trainer))))
        found = {name: variance(summed(self.moments[name], trainer)) for name in pl_module.samplers}
        for name, samples in found.items():
            self.compare(name, samples, data, trainer.global_step)
        if all(map(math.isfinite, found.values())):
            self.passed = trainer.global_step

    def compare(self, name: str, samples: float, data: float, step: int) -> None:
        """Raise `Collapsed` if a sampler that could do better has lost its variance.

        Args:
            name: of the sampler.
            samples: variance of its samples, NaN if they are not finite.
            data: variance of the data.
            step: k, of the optimiser.
        """
        if samples >= data / 2 and name not in self.varied:
            self.varied.append(name)
        if name in self.varied and not samples >= self.collapse * data:
            high = self.edges[-1].item()
            reason = f"samples of {name} have collapsed (variance {samples:.2g}, of the data {data:.2g})"
            raise Collapsed(reason, step, high, high)

    def state_dict(self) -> dict[str, Any]:
        """The rollbacks, which validation was passed, and what is usual."""
        what = {"passed": self.passed, "varied": self.varied, "spikes": self.spikes.state_dict()}
        return self.record.state_dict() | what

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take it up; a checkpoint does not know of the rollback that leads to it."""
        self.record.load_state_dict(state_dict)
        self.passed = state_dict.get("passed", self.passed)
        self.varied = state_dict["varied"]
        self.spikes.load_state_dict(state_dict["spikes"])

    def _by_sigma(self, sigma: Tensor, loss: Tensor) -> Tensor:
        """Sums of the losses, then numbers of samples, of each bin [2 BINS]."""
        self.edges = self.edges.to(sigma.device)
        bins = torch.bucketize(sigma, self.edges[1:-1])
        both = torch.stack([loss, torch.ones_like(loss)])
        return loss.new_zeros(2, BINS).index_add_(1, bins, both).flatten()

    def _diverged(self, reason: str, step: int, bins: Tensor) -> Diverged:
        """From the lowest edge of these bins [BINS] to the highest."""
        index = bins.nonzero()[:, 0].tolist()
        return Diverged(reason, step, self.edges[index[0]].item(), self.edges[index[-1] + 1].item())


def gradient_norm(trainer: Trainer, optimizer: Optimizer) -> Tensor:
    """Norm of the gradient [1], float64; 0 in fp16, where overflows are a way to find the scale."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm(grads)
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    return (torch.zeros_like(norm) if scaled else norm).double()[None]


def summed(x: Tensor, trainer: Trainer) -> Tensor:
    """The sum over all processes."""
    return torch.as_tensor(trainer.strategy.reduce(x, reduce_op="sum"))


def sample_moments(x: Tensor) -> Tensor:
    """Σ x of each coordinate, Σ |x|² and the number of samples: [B, ...] -> [D + 2] in float64."""
    x = x.detach().double().flatten(1)
    return torch.cat([x.sum(0), x.square().sum()[None], x.new_tensor([len(x)])])


def variance(moments: Tensor) -> float:
    """Over the samples, mean over coordinates."""
    total, square, count = moments[:-2], moments[-2], moments[-1]
    return ((square / count - (total / count).square().sum()) / len(total)).item()


def many_samples(data: DataModule) -> Tensor:
    """About `ENOUGH` samples of the data, evenly spaced, as networks see them."""
    x = data.real()
    x = x[:: max(len(x) // ENOUGH, 1)]
    return data.codec.encode(x)
