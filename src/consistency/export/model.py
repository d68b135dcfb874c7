"""What every format is given, and what it gives back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from consistency.codec.codec import Codec
from consistency.codec.pixels import Pixels
from consistency.errors import UserError
from consistency.export.programs import Decoded
from consistency.model.maps import Map
from consistency.sampling.programs import Program
from consistency.sampling.samplers import MultiStep, OneStep, Sampler

Inputs = tuple[Tensor, ...]  # noise z [B, K, *shape], and labels [B] of a conditional model
Run = Callable[..., Tensor]  # (*Inputs) -> images or points, decoded
CPU = torch.device("cpu")


@dataclass(frozen=True, eq=False)
class Model:
    """A trained model on its way out.

    Args:
        f: its map with the weights that were asked for, in float32, frozen, on the CPU.
        shape: of what networks see of a sample, (C, H, W) or (D,); people see `codec.decoded(shape)`.
        classes: that it knows, 0 of one without labels.
        samplers: to be exported, by name, such as `1step` or `heun35`.
        sigma_min: ε.
        codec: what x means, in whose units the network computes.
        about: what it is, as plain data: config, experiment, step, weights and their hash.
        found: σ lists that were found for these weights, by name; some may have no sampler.
    """

    f: Map
    shape: tuple[int, ...]
    classes: int
    samplers: Mapping[str, Sampler]
    sigma_min: float
    codec: Codec
    about: dict[str, Any] = field(default_factory=dict)
    found: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @property
    def sigmas(self) -> dict[str, Sequence[float]]:
        """σ lists of one step and of multistep sampling, by name: `1step`; none of a teacher."""
        return {k: each.sigmas for k, each in self.samplers.items() if isinstance(each, OneStep | MultiStep)}

    @property
    def lists(self) -> dict[str, Sequence[float]]:
        """All σ lists that are known for these weights, by name."""
        return {**self.found, **{name: each.sigmas for name, each in self.samplers.items()}}

    @property
    def pixels(self) -> Pixels | None:
        """How images x of a program become uint8; those of a codec's own are in [-1, 1]. None of points."""
        if type(self.codec) is Pixels:
            return self.codec
        return Pixels() if self.codec.visible else None

    def with_map(self, f: Map) -> "Model":
        """The same model with another map."""
        return replace(self, f=f)

    def programs(self) -> dict[str, Program | Decoded]:
        """Every sampler as a module, by name; it ends with the codec's own program, where there is one."""
        decoder = self.decoder()
        made = {name: sampler.program(self.f) for name, sampler in self.samplers.items()}
        return {
            name: program if decoder is None else Decoded(program, decoder) for name, program in made.items()
        }

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

    def __call__(self, model: Model, folder: Path) -> Written:
        """Write files into an empty folder, and read them back.

        Raises:
            UserError: a library is missing, or the model cannot be said in this format.
        """
        ...


def check_plain(model: Model, name: str) -> None:
    """Refuse samplers with options that the loops of others do not have.

    Args:
        model: to be exported.
        name: of the format.

    Raises:
        UserError: one clips, or has a preconditioner of its own.
    """
    for key in model.sigmas:
        if model.samplers[key].clip or model.samplers[key].precond is not None:
            raise UserError(
                f"export={name}: samplers.{key} has clip or precond, and the loop there has neither: leave "
                "it out with task.samplers"
            )


def frozen(f: nn.Module) -> nn.Module:
    """In evaluation mode, without gradients, in float32 on the CPU."""
    return f.eval().requires_grad_(False).float().cpu()
