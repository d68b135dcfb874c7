"""The interface of export formats: the model that a format receives, and the result that it returns."""

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
    """A model to export: frozen, in float32, on the CPU, with the samplers that are exported."""

    f: Map

    @classmethod
    def of(cls, model: Model, samplers: Mapping[str, Sampler]) -> "Outgoing":
        """A copy of a model for exports.

        Args:
            model: the model, which is not changed.
            samplers: the samplers to export, by name.

        Raises:
            UserError: the model has no network, or its codec cannot be exported.
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
        """Experiment, step, weights and their hash, role, file and config, as plain data."""
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
        """ε, the lowest noise level."""
        return self.sigma.min

    @property
    def sigmas(self) -> dict[str, Sequence[float]]:
        """σ lists of the one-step and multistep samplers, by name, such as `1step`; empty for a teacher."""
        return {k: each.sigmas for k, each in self.samplers.items() if isinstance(each, OneStep | MultiStep)}

    @property
    def lists(self) -> dict[str, Sequence[float]]:
        """All σ lists that are known for these weights, by name."""
        return {name: each.sigmas for name, each in {**self.found, **self.samplers}.items()}

    @property
    def pixels(self) -> Pixels | None:
        """The conversion of a program's images x to uint8; None for points.

        Programs that end with a codec's own program return images in [-1, 1].
        """
        if type(self.codec) is Pixels:
            return self.codec
        return Pixels() if self.codec.visible else None

    def programs(self) -> dict[str, Program | Decoded]:
        """Every sampler as a module, by name, followed by the codec's program if the codec has one."""
        decoder = self.decoder()
        modules = {name: sampler.program(self.f) for name, sampler in self.samplers.items()}
        return {
            name: program if decoder is None else Decoded(program, decoder)
            for name, program in modules.items()
        }

    def sampled(self, name: str) -> Run:
        """A sampler itself, not its program, as a function of all its noise z [B, K, ...] and labels [B]."""
        decoder, sampler = self.decoder() or nn.Identity(), self.samplers[name]

        def run(z: Tensor, label: Tensor | None = None) -> Tensor:
            draws = KnownNoise(z)
            return decoder(sampler(self.f, draws.normal(z), given_label(label), draws))

        return run

    def decoder(self) -> nn.Module | None:
        """The codec's program, z -> images in [-1, 1] or points; None if z are pixels or points already."""
        program = self.codec.program()
        return None if program is None else frozen(program)

    def inputs(self, program: Program | Decoded, batch: int, seed: int = 0) -> Inputs:
        """Inputs of a program: unit noise [batch, K, ...] from the seed, and labels if there are classes."""
        generator = torch.Generator().manual_seed(seed)
        z = torch.randn(batch, program.noises, *self.shape, generator=generator)
        return self.labelled(z)

    def labels(self, n: int) -> Tensor | None:
        """All classes in turn, long [n]; None for a model without classes."""
        return torch.arange(n) % self.classes if self.classes else None

    def labelled(self, *inputs: Tensor) -> Inputs:
        """The inputs of a batch, with its labels appended if the model has classes."""
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
    """The result of an export.

    Args:
        files: the written files.
        runs: functions that run the samplers in those files, by name.
        tolerance: greatest allowed difference from the model's own samples, in units of x; None if the
            difference is only measured.
        network: runs the bare network in its file, (x, noise[, label]) -> F; None if it was not written.
        how: Python code that makes images x with one of the files, for the README.
        device: of the inputs of `runs`.
    """

    files: Sequence[Path]
    runs: Mapping[str, Run]
    tolerance: float | None
    network: Run | None = None
    how: str = ""
    device: torch.device = CPU


class Format(Protocol):
    """(model, folder) -> the files written to the folder."""

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """Write files into an empty folder, and read them back.

        Raises:
            UserError: a library is missing, or the format cannot represent the model.
        """
        ...


def check_plain(model: Outgoing, name: str) -> None:
    """Check that the samplers have no options that the loop of another library lacks.

    Args:
        model: the model to export.
        name: of the format, for the message.

    Raises:
        UserError: a sampler has `clip` or `precond`.
    """
    for key, each in model.samplers.items():
        if isinstance(each, OneStep | MultiStep | Jumps) and (each.clip or each.precond is not None):
            raise UserError(
                f"export={name}: samplers.{key} has clip or precond, and the loop there has neither: leave "
                "it out with task.samplers"
            )


def frozen(f: M) -> M:
    """The module in evaluation mode, without gradients, in float32 on the CPU."""
    return f.eval().requires_grad_(False).float().cpu()
