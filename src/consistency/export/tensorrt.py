"""TensorRT: engines for one kind of NVIDIA GPU, built from ONNX. `pip install -e '.[tensorrt]'`.

Written against the Python interface of TensorRT 10. An engine runs on the kind of GPU that built it, and with
the same version of the library.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from consistency.errors import UserError, at_least
from consistency.export import onnx
from consistency.export.model import Outgoing, Run, Written
from consistency.export.parts import (
    EXAMPLE,
    JUMP,
    ExportProgram,
    describe_program,
    optional_library,
    write_programs,
)

LEAST = 7  # largest batch size of the verification


@dataclass(frozen=True)
class TensorRT:
    """Writes `<sampler>.plan` for each sampler and `network.plan`, for batch sizes from 1 to `largest`.

    Not the jump of a flow map between any two levels: its coefficients take float64, which TensorRT lacks.

    Args:
        largest: largest batch size.
        usual: batch size for which the engine is tuned.
        tf32: allow TF32, which rounds factors to ten bits and is faster.
        tolerance: greatest difference from the model's own samples; None to measure only.
    """

    largest: int = 64
    usual: int = 1
    tf32: bool = False
    tolerance: float | None = 1e-3

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`.

        Raises:
            UserError: the library or a GPU is missing, or the library cannot build the model.
        """
        at_least("task.formats.tensorrt", LEAST, largest=self.largest)
        at_least("task.formats.tensorrt", usual=self.usual)
        trt = optional_library("tensorrt", "tensorrt")
        if not torch.cuda.is_available():
            raise UserError(
                "export=tensorrt builds for the GPU at hand, and there is none: choose export=onnx"
            )

        def write(program: ExportProgram, path: Path) -> Run:
            source = path.with_suffix(".onnx")
            onnx.save(program, source, describe_program(model, program))
            path.write_bytes(build_engine(trt, source, self.profile(program), self.tf32))
            source.unlink()
            return run_engine(trt, path, program, self.largest)

        device = torch.device("cuda")
        return write_programs(
            model, folder, ".plan", write, self.tolerance, example_code_tensorrt, (JUMP,), device=device
        )

    def profile(self, program: ExportProgram) -> dict[str, list[tuple[int, ...]]]:
        """Smallest, usual and largest shape of each input."""
        batches = (1, min(self.usual, self.largest), self.largest)
        given = zip(program.names, program.inputs(EXAMPLE, 0), strict=True)
        return {name: [(batch, *x.shape[1:]) for batch in batches] for name, x in given}


def build_engine(trt: Any, source: Path, shapes: dict[str, list[tuple[int, ...]]], tf32: bool) -> bytes:
    """The serialized engine of an ONNX file.

    Args:
        trt: the library.
        source: the file.
        shapes: smallest, usual and largest shape of each input.
        tf32: see `TensorRT`.

    Raises:
        UserError: the library cannot read or build the file.
    """
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        raise UserError(f"TensorRT cannot read {source.name}: {parser.get_error(0)}; choose export=onnx")
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for name, (least, usual, largest) in shapes.items():
        profile.set_shape(name, least, usual, largest)
    config.add_optimization_profile(profile)
    if not tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise UserError(f"TensorRT cannot build {source.name}: what it printed says why; choose export=onnx")
    return bytes(plan)


def run_engine(trt: Any, path: Path, program: ExportProgram, largest: int) -> Run:
    """A function that runs an engine on torch's tensors and CUDA stream."""
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(path.read_bytes())
    context = engine.create_execution_context()
    made = onnx.output_of(program)

    def run(*inputs: Tensor) -> Tensor:
        """The program's output on the GPU, for inputs on any device and a batch size of at most `largest`."""
        if inputs[0].shape[0] > largest:
            raise UserError(
                f"a batch of {inputs[0].shape[0]} is more than task.formats.tensorrt.largest={largest}"
            )
        given = [x.cuda().contiguous() for x in inputs]
        for name, x in zip(program.names, given, strict=True):
            context.set_input_shape(name, tuple(x.shape))
            context.set_tensor_address(name, x.data_ptr())
        out = torch.empty(tuple(context.get_tensor_shape(made)), device=given[0].device)
        context.set_tensor_address(made, out.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream().cuda_stream):
            raise RuntimeError(f"TensorRT did not run {path.name}")
        return out

    return run


def example_code_tensorrt(file: str, shape: tuple[int, ...], classes: int) -> str:
    """Python code that runs an engine; arguments as in `onnx.example_code`."""
    label = f', "label": torch.arange({shape[0]}, device="cuda") % {classes}' if classes else ""
    return (
        "import numpy as np, tensorrt as trt, torch\n"
        f'engine = trt.Runtime(trt.Logger()).deserialize_cuda_engine(open("{file}", "rb").read())\n'
        "run = engine.create_execution_context()\n"
        f'given = {{"z": torch.randn({shape}, device="cuda"){label}}}\n'
        "for name, t in given.items():\n"
        "    run.set_input_shape(name, tuple(t.shape))\n"
        'given["x"] = torch.empty(tuple(run.get_tensor_shape("x")), device="cuda")\n'
        "for name, t in given.items():\n"
        "    run.set_tensor_address(name, t.data_ptr())\n"
        "run.execute_async_v3(torch.cuda.current_stream().cuda_stream)\n"
        'x = given["x"].cpu().numpy()\n'
    )
