"""Detects divergence before the optimiser changes the weights, and names the noise levels concerned.

Lightning's SpikeDetection acts after the weights have changed, on the mean loss only, and on ratios, which
have no meaning for negative losses; and its state cannot be loaded.
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
ENOUGH = 1024  # samples from which the variance of the data is computed
MOST = 1000  # the largest number of rollbacks that may be configured


class Guard(AbstractGuard):
    """Raises `Diverged`, and lowers the learning rate of a run that was rolled back because of it.

    It detects losses and gradients that are not finite, a spike of the loss in a bin of σ, and a collapse of
    the variance of samples. It draws no random numbers and changes nothing in a healthy run. All processes
    test the same sums, and so all decide alike.

    Args:
        sigma_min: lower edge of the first bin.
        sigma_max: upper edge of the last bin.
        rollbacks: number of rollbacks that a run may make, from 0 to 1000.
        slower: factor on the learning rate at every rollback, in (0, 1].
        spike: a loss is a spike if it exceeds the mean of its bin by this many usual deviations: `Spikes`.
        collapse: samples have collapsed if their variance falls below this share of the data's, in [0, 0.5),
            after it was at least half of the data's.
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
        self.moments: dict[str, Tensor] = {}  # of the samples of this validation, by sampler

    @property
    def calm(self) -> bool:
        """See `AbstractGuard`."""
        return self.spikes.calm

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Module, checkpoint: dict[str, Any]) -> None:
        """In a checkpoint of an older version, the last completed validation counts as passed."""
        self.passed = checkpoint["callbacks"].get("Checkpoints", {}).get("validated")

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Lower the learning rate after rollbacks; a run that had ended resumes if more are allowed now."""
        pl_module.rate_factor = self.factor
        self.record.ended = self.record.ended and self.record.count > self.rollbacks

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Module, optimizer: Optimizer) -> None:
        """Test the losses of all accumulated parts of the step, and its gradient."""
        sigma = torch.cat([part.sigma for part in pl_module.step_terms])
        loss = torch.cat([part.loss for part in pl_module.step_terms])
        local = torch.cat([self._sum_by_sigma(sigma, loss.double()), gradient_norm(trainer, optimizer)])
        total = sum_over_processes(local, trainer).cpu()  # the only synchronisation with the device
        self.check(trainer.global_step, total[:BINS], total[BINS:-1], total[-1].item())

    def check(self, step: int, loss: Tensor, count: Tensor, gradient: float) -> None:
        """Raise `Diverged` unless the step may be made.

        Args:
            step: k, of the optimiser.
            loss: sum over the samples of each bin [BINS], float64.
            count: samples of each bin [BINS].
            gradient: norm of the gradient, summed over processes.
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
        """Clear the moments of the last validation."""
        self.moments.clear()

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: dict[str, Tensor], *_: Any
    ) -> None:
        """Add the moments of the samples."""
        for name, x in outputs.items():
            self.moments[name] = sample_moments(x) + self.moments.get(name, 0)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Module) -> None:
        """Raise `Collapsed` if samples have; not in the validation that follows the last step."""
        if trainer.state.fn != "fit":
            return
        data = variance(sample_moments(many_samples(data_of(trainer))))
        variances = {
            name: variance(sum_over_processes(self.moments[name], trainer)) for name in pl_module.samplers
        }
        for name, samples in variances.items():
            self.compare(name, samples, data, trainer.global_step)
        if all(map(math.isfinite, variances.values())):
            self.passed = trainer.global_step

    def compare(self, name: str, samples: float, data: float, step: int) -> None:
        """Raise `Collapsed` if samples that had half of the data's variance have lost it.

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
        """The rollbacks, the last validation that passed, and the usual losses of each bin."""
        state = {"passed": self.passed, "varied": self.varied, "spikes": self.spikes.state_dict()}
        return self.record.state_dict() | state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load them; the record of rollbacks is kept if it is longer than that of the checkpoint."""
        self.record.load_state_dict(state_dict)
        self.passed = state_dict.get("passed", self.passed)
        self.varied = state_dict["varied"]
        self.spikes.load_state_dict(state_dict["spikes"])

    def _sum_by_sigma(self, sigma: Tensor, loss: Tensor) -> Tensor:
        """Sum of the losses of each bin, then number of samples of each bin: [2 BINS]."""
        self.edges = self.edges.to(sigma.device)
        bins = torch.bucketize(sigma, self.edges[1:-1])
        both = torch.stack([loss, torch.ones_like(loss)])
        return loss.new_zeros(2, BINS).index_add_(1, bins, both).flatten()

    def _diverged(self, reason: str, step: int, bins: Tensor) -> Diverged:
        """The exception, with the range of σ of the marked bins (bool [BINS])."""
        index = bins.nonzero()[:, 0].tolist()
        return Diverged(reason, step, self.edges[index[0]].item(), self.edges[index[-1] + 1].item())


def gradient_norm(trainer: Trainer, optimizer: Optimizer) -> Tensor:
    """Norm of the gradient [1], float64; 0 in fp16, where the loss scaler expects overflows."""
    grads = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm(grads)
    scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
    return (torch.zeros_like(norm) if scaled else norm).double()[None]


def sum_over_processes(x: Tensor, trainer: Trainer) -> Tensor:
    """The sum over all processes."""
    return torch.as_tensor(trainer.strategy.reduce(x, reduce_op="sum"))


def sample_moments(x: Tensor) -> Tensor:
    """Σ x of each coordinate, Σ |x|² and the number of samples: [B, ...] -> [D + 2], float64."""
    x = x.detach().double().flatten(1)
    return torch.cat([x.sum(0), x.square().sum()[None], x.new_tensor([len(x)])])


def variance(moments: Tensor) -> float:
    """Variance over the samples, averaged over the coordinates, from `sample_moments` [D + 2]."""
    total, square, count = moments[:-2], moments[-2], moments[-1]
    return ((square / count - (total / count).square().sum()) / len(total)).item()


def many_samples(data: DataModule) -> Tensor:
    """About `ENOUGH` samples of the data, evenly spaced, encoded."""
    x = data.real()
    x = x[:: max(len(x) // ENOUGH, 1)]
    return data.codec.encode(x)
