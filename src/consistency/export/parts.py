"""The programs of an exported model, a file each: one per sampler, and the bare network.

Of a flow map there is one more, which jumps from any level to any lower one.

Where networks see neither pixels nor points, every sampler ends with the codec's own program, which is also a
file by itself, for whoever calls the bare network.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import nn

from consistency.codec.pixels import Pixels
from consistency.errors import UserError
from consistency.export.model import Inputs, Outgoing, Run, Written
from consistency.export.programs import AnyJump, describe_second, network
from consistency.model.maps import FlowMap
from consistency.tensor import expand

NETWORK, DECODER, JUMP = "network", "decoder", "jump"  # beside the names of samplers
EXAMPLE = 2  # samples; a batch of one would be taken for a constant


class ExportProgram(NamedTuple):
    """A module to export.

    Args:
        name: of its sampler, `network`, `decoder` of a codec, or `jump` of a flow map.
        module: in evaluation mode.
        names: of its inputs.
        inputs: (batch size, seed) -> example inputs.
    """

    name: str
    module: nn.Module
    names: tuple[str, ...]
    inputs: Callable[[int, int], Inputs]


Write = Callable[[ExportProgram, Path], Run]  # writes a program to a file -> runs the file
How = Callable[[str, tuple[int, ...], int], str]


def programs(model: Outgoing) -> dict[str, ExportProgram]:
    """All of a model, by name."""
    label = ("label",) if model.classes else ()
    found = {
        name: ExportProgram(name, sampler.eval(), ("z", *label), partial(model.inputs, sampler))
        for name, sampler in model.programs().items()
    }
    second = ("h",) if isinstance(model.f, FlowMap) else ()
    if isinstance(model.f, FlowMap):
        names = ("x", "t", "s", *label)
        found[JUMP] = ExportProgram(JUMP, AnyJump(model.f).eval(), names, partial(jumps, model))
    inputs = ("x", "noise", *second, *label)
    bare = ExportProgram(NETWORK, network(model.f).eval(), inputs, partial(states, model))
    decoder = model.decoder()
    if decoder is not None:
        found[DECODER] = ExportProgram(DECODER, decoder, ("encoded",), partial(encoded, model))
    return {**found, NETWORK: bare}


def encoded(model: Outgoing, batch: int, seed: int = 0) -> Inputs:
    """Example inputs of a decoder: z [B, ...] with standard deviation 1/2."""
    return (0.5 * torch.randn(batch, *model.shape, generator=torch.Generator().manual_seed(seed)),)


def states(model: Outgoing, batch: int, seed: int = 0) -> Inputs:
    """Scaled x [B, ...], c_noise [B] of σ from 0.02 to 80, h [B] of a flow map, labels [B] of classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *model.shape, generator=generator)
    sigma = 0.02 * 4000 ** torch.rand(batch, generator=generator, dtype=torch.float64)
    noise = model.f.precond(sigma).noise.float()
    second = (torch.rand(batch, generator=generator),) if isinstance(model.f, FlowMap) else ()
    return model.labelled(x, noise, *second)


def jumps(model: Outgoing, batch: int, seed: int = 0) -> Inputs:
    """x [B, ...] like noisy data, t [B] from 0.02 to 80, s [B] in [0, min(t, 1)], labels [B] of classes.

    The first s is 0. None is above 1, so that a difference in X is one in units of the data.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *model.shape, generator=generator)
    t = 0.02 * 4000 ** torch.rand(batch, generator=generator)
    s = t.clamp(max=1.0) * torch.rand(batch, generator=generator)
    s[0] = 0.0
    return model.labelled(expand((0.25 + t**2).sqrt(), x) * x, t, s)


def write_programs(
    model: Outgoing,
    folder: Path,
    ending: str,
    write: Write,
    tolerance: float | None,
    how: How,
    without: Sequence[str] = (),
    **more: Any,
) -> Written:
    """Write every program of a model to a file of its own.

    Args:
        model: the model to export.
        folder: for the files.
        ending: of the file names, such as `.onnx`.
        write: writes a program and returns a function that runs its file.
        tolerance: see `Written`.
        how: (file, shape of noise, classes) -> lines of Python that run a program.
        without: names of programs that are left out.
        **more: see `Written`.
    """
    made = {
        name: (folder / f"{name}{ending}", write(program, folder / f"{name}{ending}"))
        for name, program in programs(model).items()
        if name not in without
    }
    runs = {name: run for name, (_, run) in made.items()}
    network = runs.pop(NETWORK)
    files = [path for path, _ in made.values()]
    lines = [
        how(f"{name}{ending}", (16, program.noises, *model.shape), model.classes)
        for name, program in model.programs().items()
    ]
    return Written(files, runs, tolerance, network, lines[0] if lines else "", **more)


def describe_program(model: Outgoing, program: ExportProgram) -> dict[str, str]:
    """Metadata of a program as texts by key: σ list, codec, pixels, provenance of the weights."""
    sigmas = {"sigmas": json.dumps(sigmas_of(model, program.name))}
    means = model.pixels or Pixels(0.0, 1.0)  # points are what they are
    pixels = {"sigma_min": str(model.sigma_min), "offset": str(means.offset), "scale": str(means.scale)}
    pixels["codec"] = json.dumps(model.codec.describe(), sort_keys=True)
    known = {
        k: str(model.about[k])
        for k in ("experiment", "step", "weights", "weights_sha256")
        if model.about[k] is not None
    }
    second = describe_second(model.f) if program.name == NETWORK else {}
    return {**sigmas, **pixels, **known, **second}


def sigmas_of(model: Outgoing, name: str) -> list[float]:
    """The σ list of a program's sampler; empty for the bare network."""
    sampler = model.samplers.get(name)
    return [] if sampler is None else list(sampler.sigmas)


def dynamic(program: ExportProgram) -> tuple[dict[int, Any], ...]:
    """The dynamic axes of a program's inputs for torch.export: the first axis of each is the batch."""
    batch = torch.export.Dim("batch", min=1)
    return tuple({0: batch} for _ in program.names)


def optional_library(name: str, extra: str = "export") -> ModuleType:
    """Import an optional library.

    Args:
        name: of the module.
        extra: the extra of this package that installs it.

    Raises:
        UserError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed: pip install -e '.[{extra}]'") from error


@contextmanager
def without_exporter_warnings() -> Iterator[None]:
    """Hide warnings of exporters about their own internals; the result is verified instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
