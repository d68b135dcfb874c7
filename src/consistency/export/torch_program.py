"""Export as programs of torch.export: `.pt2` files that need no code of this package, or compiled ones."""

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.export import ExportedProgram

from consistency.errors import UserError
from consistency.export.model import Outgoing, Run, Written
from consistency.export.parts import (
    EXAMPLE,
    ExportProgram,
    describe_program,
    dynamic,
    without_exporter_warnings,
    write_programs,
)

COMPILERS = ("c++", "g++", "clang++")
GRAPH = 'torch.export.load("{}").module()'
PACKAGE = 'torch._inductor.aoti_load_package("{}")'


@dataclass(frozen=True)
class TorchExport:
    """Writes `<sampler>.pt2` for each sampler and `network.pt2` (torch.export), for any batch size.

    Args:
        tolerance: greatest difference from the model's own samples.
    """

    tolerance: float | None = 1e-5

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`."""

        def write(program: ExportProgram, path: Path) -> Run:
            texts = describe_program(model, program)
            torch.export.save(traced(program), path, extra_files=texts)
            return torch.export.load(path).module()

        return write_programs(
            model, folder, ".pt2", write, self.tolerance, partial(example_code_torch, GRAPH)
        )


@dataclass(frozen=True)
class AOTInductor:
    """Writes the same programs compiled ahead of time, as packages for Python and C++.

    They run on processors like that of this machine, and with the same version of torch.

    Args:
        tolerance: greatest difference from the model's own samples.
    """

    tolerance: float | None = 1e-4

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`.

        Raises:
            UserError: there is no C++ compiler.
        """
        if not any(map(shutil.which, COMPILERS)):
            raise UserError(
                f"export=aotinductor found none of {', '.join(COMPILERS)}: install a C++ compiler, or choose "
                "export=torch_export, which needs none"
            )
        return write_programs(
            model, folder, ".pt2", compile_program, self.tolerance, partial(example_code_torch, PACKAGE)
        )


def traced(program: ExportProgram) -> ExportedProgram:
    """A program as an `ExportedProgram`, without the paths of our source files."""
    with without_exporter_warnings():
        made = torch.export.export(
            program.module, program.inputs(EXAMPLE, 0), dynamic_shapes=dynamic(program)
        )
    for node in made.graph.nodes:
        node.meta.pop("stack_trace", None)
    return made


def compile_program(program: ExportProgram, path: Path) -> Run:
    """Compile a program to a file; returns a function that runs the file."""
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    with without_exporter_warnings():
        aoti_compile_and_package(traced(program), package_path=str(path))
    return aoti_load_package(str(path))


def example_code_torch(load: str, file: str, shape: tuple[int, ...], classes: int) -> str:
    """Python code that loads and runs a file.

    Args:
        load: expression that loads a file, with {} for its name.
        file: its name.
        shape: of the noise z.
        classes: number of classes, 0 for none.
    """
    label = f", torch.arange({shape[0]}) % {classes}" if classes else ""
    return (
        f"import numpy as np, torch\nrun = {load.format(file)}\nx = run(torch.randn{shape}{label}).numpy()\n"
    )
