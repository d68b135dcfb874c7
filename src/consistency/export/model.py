"""What every format is given, and what it gives back."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from consistency.codec.pixels import Pixels
from consistency.codec.program import check_program
from consistency.errors import UserError
from consistency.library.model import CPU, Model
from consistency.model.condition import given_label
from consistency.model.maps import Map
from consistency.sampling.programs import Decoded, Program
from consistency.sampling.samplers import Jumps, MultiStep, OneStep, Sampler
from consistency.schedule.draws import ImageDraws

M = TypeVar("M", bound=nn.Module)
Inputs = tuple[Tensor, ...]  # noise z [B, K, *shape], and labels [B] of a conditional model
Run = Callable[..., Tensor]  # (*Inputs) -> images or points, decoded


class Outgoing(Model):
    """A model on its way out: frozen, in float32, on the CPU, with the samplers that are exported."""

    f: Map

    @classmethod
    def of(cls, model: Model, samplers: Mapping[str, Sampler]) -> "Outgoing":
        """A copy of a model for exports.

        Args:
            model: any; it stays as it is.
            samplers: to be exported, by name.

        Raises:
            UserError: it has no network, or its codec cannot be exported.
        """
        if not isinstance(model.f, Map):
            raise UserError(
                f"ckpt_path={model.provenance.path} holds no network that can be exported: choose a run of a "
                "network"
            )
        check_program(model.codec, model.shape)
        kept = {each.name: getattr(model, each.name) for each in fields(cls)}
        return cls(**{**kept, "f": frozen(copy.deepcopy(model.f)), "samplers": samplers})

    @property
    def about(self) -> dict[str, Any]:
        """What it is, as plain data: experiment, step, weights and their hash, role, file, config."""
        where = self.provenance
        return {
            "experiment": where.experiment,
            "step": where.step,
            "weights": where.weights,
            "weights_sha256": where.weights_sha256,
            "role": self.role,
            "file": where.path.name,
            "config": where.config,
        }

    @property
    def sigma_min(self) -> float:
        """ε."""
        return self.sigma.min

    @property
    def sigmas(self) -> dict[str, Sequence[float]]:
        """σ lists of one step and of multistep sampling, by name: `1step`; none of a teacher."""
        return {k: each.sigmas for k, each in self.samplers.items() if isinstance(each, OneStep | MultiStep)}

    @property
    def lists(self) -> dict[str, Sequence[float]]:
        """All σ lists that are known for these weights, by name."""
        return {name: each.sigmas for name, each in {**self.found, **self.samplers}.items()}

    @property
    def pixels(self) -> Pixels | None:
        """How images x of a program become uint8; those of a codec's own are in [-1, 1]. None of points."""
        if type(self.codec) is Pixels:
            return self.codec
        return Pixels() if self.codec.visible else None

    def programs(self) -> dict[str, Program | Decoded]:
        """Every sampler as a module, by name; it ends with the codec's own program, where there is one."""
        decoder = self.decoder()
        made = {name: sampler.program(self.f) for name, sampler in self.samplers.items()}
        return {
            name: program if decoder is None else Decoded(program, decoder) for name, program in made.items()
        }

    def sampled(self, name: str) -> Run:
        """A sampler itself, not its program, as a function of all its noise z [B, K, ...] and labels [B]."""
        decoder, sampler = self.decoder() or nn.Identity(), self.samplers[name]

        def run(z: Tensor, label: Tensor | None = None) -> Tensor:
            draws = KnownNoise(z)
            return decoder(sampler(self.f, draws.normal(z), given_label(label), draws))

        return run

    def decoder(self) -> nn.Module | None:
        """What networks see -> images in [-1, 1] or points; None where they see these."""
        made = self.codec.program()
        return None if made is None else frozen(made)

    def inputs(self, program: Program | Decoded, batch: int, seed: int = 0) -> Inputs:
        """Unit noise for a program, and labels if the model has classes; a function of the seed."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(batch, program.noises, *self.shape, generator=generator)
        return self.labelled(z)

    def labels(self, n: int) -> Tensor | None:
        """All classes in turn, long [n]; None of a model without."""
        return torch.arange(n) % self.classes if self.classes else None

    def labelled(self, *inputs: Tensor) -> Inputs:
        """Inputs of a batch, and its labels if the model has classes."""
        label = self.labels(len(inputs[0]))
        return inputs if label is None else (*inputs, label)


class KnownNoise(ImageDraws):
    """Fresh noise that is known already, z [B, K, ...]: of the first call, then of the next.

    Args:
        z: unit noise.
    """

    def __init__(self, z: Tensor) -> None:
        super().__init__(0, [])
        self._left = list(z.unbind(1))

    def normal(self, x: Tensor) -> Tensor:
        """The next of them."""
        return self._left.pop(0)


class Written(NamedTuple):
    """What came of an export.

    Args:
        files: that were written.
        runs: the samplers as they stand in those files, read back, by name.
        tolerance: greatest difference from the model's own samples, in units of x, that an exact export may
            have; None where it is only measured.
        network: the bare network as read back, (x, noise[, label]) -> F; None where it was not written.
        how: lines of Python that make images x of what was written.
        device: where runs take their inputs.
    """

    files: Sequence[Path]
    runs: Mapping[str, Run]
    tolerance: float | None
    network: Run | None = None
    how: str = ""
    device: torch.device = CPU


class Format(Protocol):
    """(model, folder) -> what was written there."""

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """Write files into an empty folder, and read them back.

        Raises:
            UserError: a library is missing, or the model cannot be said in this format.
        """
        ...


def check_plain(model: Outgoing, name: str) -> None:
    """Refuse samplers with options that the loops of others do not have.

    Args:
        model: to be exported.
        name: of the format.

    Raises:
        UserError: one clips, or has a preconditioner of its own.
    """
    for key, each in model.samplers.items():
        if isinstance(each, OneStep | MultiStep | Jumps) and (each.clip or each.precond is not None):
            raise UserError(
                f"export={name}: samplers.{key} has clip or precond, and the loop there has neither: leave "
                "it out with task.samplers"
            )


def frozen(f: M) -> M:
    """In evaluation mode, without gradients, in float32 on the CPU."""
    return f.eval().requires_grad_(False).float().cpu()
