"""The LightningModule of every run. Subclasses define `terms`, the loss and σ of each sample of a batch."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, TypedDict

from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import Optimizer

from consistency.data.loader import Batch, Request
from consistency.errors import UserError
from consistency.files.paths import check_names
from consistency.lit.data.module import data_of
from consistency.lit.pacing import largest, paced
from consistency.lit.rehearsal import check_optimizer
from consistency.lit.restored import check_restorable
from consistency.model.condition import Condition
from consistency.model.maps import DenoiserLike, Map, one_time
from consistency.sampling.samplers import Sampler, check_samplers
from consistency.schedule.draws import DROPOUT, STEPS, Draws, StepDraws, key
from consistency.schedule.rate import Rate
from consistency.tensor import MapTerms, Terms, seed_dropout
from consistency.truth.oracle import Mixture

SHOWN: dict[str, Any] = {"prog_bar": True, "logger": False}
OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]


class RunArguments(TypedDict):
    """The arguments of `Module`, which the constructors of all methods hand on to it."""

    model: Map
    optimizer: OptimizerFactory
    rate: Rate
    samplers: Mapping[str, Sampler | None]
    seed: int


class Module(LightningModule):
    """Trains a map: batch -> terms (loss and σ of each sample) -> mean loss. Validation steps make samples.

    Args:
        model: the map that learns.
        optimizer: parameters -> optimiser.
        rate: factor on the learning rate as a function of the step.
        samplers: name -> sampler that makes the samples of a validation; a name with None is left out.
        seed: determines every random number of training.
    """

    learns: ClassVar[type[Map]]  # the role that its model must have

    def __init__(
        self,
        model: Map,
        optimizer: OptimizerFactory,
        rate: Rate,
        samplers: Mapping[str, Sampler | None],
        seed: int,
    ) -> None:
        super().__init__()
        check_names("samplers", samplers)
        self.check_role(model)
        self.model = model
        self.optimizer, self.rate, self.seed = optimizer, rate, seed
        self.samplers = {name: sampler for name, sampler in samplers.items() if sampler is not None}
        check_optimizer(optimizer)
        check_samplers(self.samplers, model)
        self.step_terms: list[Terms] = []  # of each accumulated part of an optimiser step, for callbacks
        self.group_options: list[dict[str, Any]] = []  # options of each parameter group, as configured
        self.portion_size: int | None = (
            None  # samples in one network call outside training; None until measured
        )
        self.rate_factor = 1.0  # factor on the learning rate, set by `Guard` after rollbacks

    def check_role(self, model: Map) -> None:
        """Refuse a model of another role than the one that this module trains."""
        if not isinstance(model, self.learns):
            raise UserError(
                f"model._target_ is a {model.role}, and {type(self).__name__} trains a {self.learns.role}: "
                f"set model._target_=consistency.model.maps.{self.learns.__name__}, or choose another method"
            )

    @abstractmethod
    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms | MapTerms:
        """Loss and σ of each sample of x [B, ...] at optimiser step k."""

    @abstractmethod
    def progress(self, k: int) -> dict[str, float]:
        """Quantities that the method changes with step k, by name, such as N and μ."""

    @abstractmethod
    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] at step k -> [E-1]."""

    @abstractmethod
    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """The function that is learned, exactly: [B, ...] from x [B, ...] and σ [B], for a known density."""

    def on_train_start(self) -> None:
        """Set the options of the optimiser to those of the config, not to those of a loaded checkpoint."""
        for group, options in zip(self.trainer.optimizers[0].param_groups, self.group_options, strict=True):
            parameters = group["params"]
            group.clear()
            group.update(options, params=parameters)
        self._set_rate(max(self.global_step - 1, 0))  # as after the last step: a validation may save it again

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Set the learning rate, a function of the step alone."""
        self._set_rate(self.global_step)

    def _set_rate(self, k: int) -> None:
        for group, options in zip(self.trainer.optimizers[0].param_groups, self.group_options, strict=True):
            group["lr"] = self.rate_factor * options["lr"] * self.rate(k)

    def training_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """The mean loss, and for callbacks loss [B] and σ [B]; `Curves` writes what is logged here."""
        k, part = self.global_step, index % self.trainer.accumulate_grad_batches
        rank, world = self.trainer.global_rank, self.trainer.world_size
        seed_dropout(key(self.seed, DROPOUT, part, rank, k), self.device)
        draws = StepDraws(self.seed, STEPS, part, k, rank=rank, world=world)
        terms = self.terms(batch.x, batch.c, k, draws)
        self.step_terms = [*(self.step_terms if part else ()), Terms(terms.loss.detach(), terms.sigma)]
        loss = terms.loss.mean()
        self.log("train/loss", loss.detach(), **SHOWN, sync_dist=world > 1, batch_size=len(batch.x))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], logger=False)
        second = {"s": terms.s} if isinstance(terms, MapTerms) else {}
        return {"loss": loss, "per_sample": terms.loss.detach(), "sigma": terms.sigma, **second}

    def validation_step(self, request: Request, index: int) -> dict[str, Tensor]:
        """Samples [B, ...] of each sampler, by its name, all from the same noise."""
        return self.sample(request)

    def sample(self, request: Request) -> dict[str, Tensor]:
        """Samples [B, ...] of each sampler, by its name."""
        f = self.paced()
        return {
            name: sampler(f, request.z, request.c, request.draws.fork())
            for name, sampler in self.samplers.items()
        }

    def paced(self) -> Callable[..., Tensor]:
        """The model, called on portions of a batch, for work outside training: `consistency.lit.pacing`."""
        return self._paced(self.model)

    def paced_one_time(self) -> DenoiserLike:
        """The same as a function of one noise level: (x, σ, c); of a flow map, its consistency function."""
        return self._paced(one_time(self.model))

    def _paced(self, f: Map) -> Callable[..., Tensor]:
        data = data_of(self.trainer)
        self.portion_size = self.portion_size or largest(self.model, data)
        return paced(f, data, most=self.portion_size)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the model is."""
        checkpoint["role"] = self.model.role

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose parts do not fit this run, before any of them is loaded."""
        check_restorable(self.trainer, self, checkpoint)

    def configure_optimizers(self) -> Optimizer:
        """The optimiser of all parameters that have a gradient.

        Raises:
            UserError: the optimiser refuses its options.
        """
        try:
            optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        except ValueError as error:
            raise UserError(f"optimizer: {error}; change that value of the optimizer") from error
        groups = optimizer.param_groups
        self.group_options = [{key: group[key] for key in group if key != "params"} for group in groups]
        return optimizer
