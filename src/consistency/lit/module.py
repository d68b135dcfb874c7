"""The abstract training run: one hole, `terms`. What fills it is an objective with its parts."""

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
from consistency.nets.adm import ADM
from consistency.nets.unet import UNet
from consistency.sampling.samplers import Sampler, check_samplers
from consistency.schedule.draws import DROPOUT, STEPS, Draws, StepDraws, key
from consistency.schedule.rate import Rate
from consistency.tensor import Terms, seed_dropout
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
    """Batch -> terms -> loss; and samples, when asked for.

    Args:
        model: the map that learns.
        optimizer: parameters -> optimiser.
        rate: factor on the learning rate as a function of the step.
        samplers: how images are made, by name; None for none.
        seed: every random number of the run follows from it.
    """

    learns: ClassVar[type[Map]]  # the role of its model

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
        self.seen: list[Terms] = []  # of the parts of an optimiser step, for whoever watches it
        self.given: list[dict[str, Any]] = []  # values of the config for each group of the optimiser
        self.largest: int | None = None  # samples of a network call outside training; not known yet
        self.slower = 1.0  # factor on the learning rate, set by the guard of a run that went back

    def check_role(self, model: Map) -> None:
        """Refuse a model that promises something else than this training teaches."""
        if not isinstance(model, self.learns):
            raise UserError(
                f"model._target_ is a {model.role}, and {type(self).__name__} trains a {self.learns.role}: "
                f"set model._target_=consistency.model.maps.{self.learns.__name__}, or choose another method"
            )

    @abstractmethod
    def terms(self, x: Tensor, c: Condition, k: int, draws: Draws) -> Terms:
        """Loss and σ of each sample of x [B, ...] at optimiser step k."""

    @abstractmethod
    def progress(self, k: int) -> dict[str, float]:
        """What the method changes with the step, by name: N(k), μ(k)."""

    @abstractmethod
    def mass(self, edges: Tensor, k: int) -> Tensor:
        """Probability that σ falls between neighbouring edges [E] at step k -> [E-1]."""

    @abstractmethod
    def exact(self, density: Mixture, x: Tensor, sigma: Tensor) -> Tensor:
        """What a perfect denoiser would return at x [B, ...] and σ [B], for data of a known density."""

    def on_train_start(self) -> None:
        """Give the optimiser the values of the config; the state of a checkpoint has brought its own."""
        for group, given in zip(self.trainer.optimizers[0].param_groups, self.given, strict=True):
            parameters = group["params"]
            group.clear()
            group.update(given, params=parameters)
        self._set_rate(max(self.global_step - 1, 0))  # of the step before, which a validation may save again

    def on_train_batch_start(self, batch: Batch, index: int) -> None:
        """Set the learning rate, a function of the step alone."""
        self._set_rate(self.global_step)

    def _set_rate(self, k: int) -> None:
        for group, given in zip(self.trainer.optimizers[0].param_groups, self.given, strict=True):
            group["lr"] = self.slower * given["lr"] * self.rate(k)

    def training_step(self, batch: Batch, index: int) -> dict[str, Tensor]:
        """The loss, and per-sample losses and σ for callbacks; `Curves` writes what is logged here."""
        k, part = self.global_step, index % self.trainer.accumulate_grad_batches
        rank, world = self.trainer.global_rank, self.trainer.world_size
        seed_dropout(key(self.seed, DROPOUT, part, rank, k), self.device)
        draws = StepDraws(self.seed, STEPS, part, k, rank=rank, world=world)
        terms = self.terms(batch.x, batch.c, k, draws)
        self.seen = [*(self.seen if part else ()), Terms(terms.loss.detach(), terms.sigma)]
        loss = terms.loss.mean()
        self.log("train/loss", loss.detach(), **SHOWN, sync_dist=world > 1, batch_size=len(batch.x))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], logger=False)
        second = {} if terms.s is None else {"s": terms.s}
        return {"loss": loss, "per_sample": terms.loss.detach(), "sigma": terms.sigma, **second}

    def validation_step(self, request: Request, index: int) -> dict[str, Tensor]:
        """Samples [B, ...] of every sampler, from the same noise."""
        return self.sample(request)

    def sample(self, request: Request) -> dict[str, Tensor]:
        """Samples [B, ...] by name of the sampler."""
        f = self.paced()
        return {
            name: sampler(f, request.z, request.c, request.draws.fork())
            for name, sampler in self.samplers.items()
        }

    def paced(self) -> Callable[..., Tensor]:
        """The model, in evaluation mode, for long work: see `consistency.lit.pacing`."""
        return self._paced(self.model)

    def paced_one_time(self) -> DenoiserLike:
        """The same as a function of one level: (x, σ, c)."""
        return self._paced(one_time(self.model))

    def _paced(self, f: Map) -> Callable[..., Tensor]:
        data = data_of(self.trainer)
        self.largest = self.largest or largest(self.model, data)
        return paced(f, data, most=self.largest)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Say what the model is."""
        checkpoint["role"] = self.model.role

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint whose parts do not fit this run, before any of them is taken up."""
        check_restorable(self.trainer, self, checkpoint)

    def configure_optimizers(self) -> Optimizer:
        """The optimiser of all that learns."""
        try:
            optimizer = self.optimizer([p for p in self.parameters() if p.requires_grad])
        except ValueError as error:
            raise UserError(f"optimizer: {error}; change that value of the optimizer") from error
        groups = optimizer.param_groups
        self.given = [{key: group[key] for key in group if key != "params"} for group in groups]
        return optimizer


def without_augmentation(net: nn.Module) -> None:
    """Do not train what only labels of augmentation reach, in a run that gives none.

    Such a parameter has no gradient and keeps its value; processes that train together would wait for one.
    """
    if isinstance(net, UNet | ADM):
        net.conditioning.of_augmentation().requires_grad_(False)
