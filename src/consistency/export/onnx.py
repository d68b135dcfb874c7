"""Export to ONNX, for runtimes without Python; the batch size is free."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from consistency.export.model import Outgoing, Run, Written
from consistency.export.parts import (
    EXAMPLE,
    JUMP,
    NETWORK,
    ExportProgram,
    describe_program,
    dynamic,
    optional_library,
    without_exporter_warnings,
    write_programs,
)
from consistency.model.condition import NONE, Condition

LARGEST = 1_900_000_000  # bytes of weights in one file; the limit of the format is 2 GiB


class Precision(Protocol):
    """The number format in which a program computes; its inputs and outputs are always float32."""

    @property
    def tolerance(self) -> float | None:
        """See `Written`."""
        ...

    def model(self, model: Outgoing) -> Outgoing:
        """The model in this precision."""
        ...

    def finish(self, path: Path) -> None:
        """Convert a written file."""
        ...


@dataclass(frozen=True)
class Full:
    """float32, as in training.

    Args:
        tolerance: greatest difference from the model's own samples.
    """

    tolerance: float | None = 1e-4

    def model(self, model: Outgoing) -> Outgoing:
        """The model itself."""
        return model

    def finish(self, path: Path) -> None:
        """Nothing to convert."""


@dataclass(frozen=True)
class Half:
    """Weights and activations of the network in float16; embeddings and the sampler stay in float32.

    Args:
        tolerance: as in `Full`; None to measure only.
    """

    tolerance: float | None = None

    def model(self, model: Outgoing) -> Outgoing:
        """The model with a network of half the size."""
        return model.with_map(model.f.with_parts(Halved(model.f.net), model.f.precond).eval())

    def finish(self, path: Path) -> None:
        """Nothing to convert."""


class Halved(nn.Module):
    """A network in float16 with inputs and outputs in float32.

    Args:
        net: the network, which is copied.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net).half()
        self.takes: tuple[str, ...] = getattr(net, "takes", ())
        self.times: int = getattr(net, "times", 1)

    def forward(self, x: Tensor, noise: Tensor, c: Condition = NONE, *second: Tensor) -> Tensor:
        """F, float32 like x; `second` is h [B] of a network of two times."""
        return self.net(x.half(), noise, c, *second).float()


@dataclass(frozen=True)
class Int8:
    """Weights as 8-bit integers, with onnxruntime's dynamic quantisation of activations.

    Args:
        per_channel: a scale for each channel of a weight instead of one for all.
        tolerance: as in `Full`; None to measure only.
    """

    per_channel: bool = True
    tolerance: float | None = None

    def model(self, model: Outgoing) -> Outgoing:
        """The model itself."""
        return model

    def finish(self, path: Path) -> None:
        """Quantise the file."""
        quantization = optional_library("onnxruntime.quantization")
        options = {
            "per_channel": self.per_channel,
            "weight_type": quantization.QuantType.QUInt8,  # the only type of the CPU's integer convolution
        }
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # hides advice on preprocessing
        try:
            quantization.quantize_dynamic(path, path, **options)
        finally:
            logging.root.setLevel(level)


@dataclass(frozen=True)
class Onnx:
    """Writes `<sampler>.onnx` for each sampler and `network.onnx`, and reads them with onnxruntime.

    The metadata of a file are its σ list, codec, offset and scale of pixels, and hash of the weights.

    Args:
        precision: the number format of the computation.
    """

    precision: Precision = Full()

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """See `Format`."""
        for name in ("onnx", "onnxscript", "onnxruntime"):
            optional_library(name)

        def write(program: ExportProgram, path: Path) -> Run:
            save(program, path, describe_program(model, program))
            self.precision.finish(path)
            return run_onnx(path)

        return write_programs(
            self.precision.model(model), folder, ".onnx", write, self.precision.tolerance, example_code
        )


def example_code(file: str, shape: tuple[int, ...], classes: int) -> str:
    """Python code that runs a file.

    Args:
        file: its name.
        shape: of the noise z.
        classes: number of classes, 0 for none.
    """
    label = f', "label": np.arange({shape[0]}) % {classes}' if classes else ""
    return (
        "import numpy as np, onnxruntime\n"
        f'run = onnxruntime.InferenceSession("{file}", providers=["CPUExecutionProvider"])\n'
        f"z = np.random.default_rng().standard_normal({shape}, np.float32)\n"
        f'x, = run.run(None, {{"z": z{label}}})\n'
    )


def output_of(program: ExportProgram) -> str:
    """Name of what a program makes: images x of a sampler, F of the network, X of a jump."""
    return {NETWORK: "F", JUMP: "X"}.get(program.name, "x")


def save(program: ExportProgram, path: Path, metadata: dict[str, str]) -> None:
    """Write a program as an ONNX file with metadata."""
    with without_exporter_warnings():
        made = torch.onnx.export(
            program.module,
            program.inputs(EXAMPLE, 0),
            dynamo=True,
            dynamic_shapes=dynamic(program),
            custom_translation_table=translations(),
            input_names=program.names,
            output_names=[output_of(program)],
            verbose=False,
        )
    assert made is not None
    for node in made.model.graph.all_nodes():  # it has paths and lines of our source files
        node.metadata_props.clear()
    made.model.metadata_props.update(metadata)
    size = sum(p.numel() * p.element_size() for p in program.module.parameters())
    made.save(path, external_data=size > LARGEST)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Operators of the coefficients of a jump that onnxruntime or the exporter lack, said by others.

    atan of float64 is that of float32 and a step of Newton's method; an index among sorted levels is a count.
    """
    op = optional_library("onnxscript").opset18
    double, single, whole = 11, 1, 7  # onnx.TensorProto

    def atan(x: Any) -> Any:
        if x.dtype != double:
            return op.Atan(x)
        near = op.Cast(op.Atan(op.Cast(x, to=single)), to=double)
        slope = op.Div(op.Sin(near), op.Cos(near))
        one = op.Constant(value_floats=[1.0])
        return op.Add(near, op.Div(op.Sub(x, slope), op.Add(op.CastLike(one, x), op.Mul(x, slope))))

    def searchsorted(levels: Any, x: Any, right: bool = False, **_: Any) -> Any:
        last = op.Constant(value_ints=[-1])
        each = op.Unsqueeze(x, last)
        below = op.LessOrEqual(levels, each) if right else op.Less(levels, each)
        return op.ReduceSum(op.Cast(below, to=whole), last, keepdims=0)

    aten = torch.ops.aten
    return {aten.atan.default: atan, aten.searchsorted.Tensor: searchsorted}


def run_onnx(path: Path) -> Run:
    """A function that runs an ONNX file on the CPU, with torch's number of threads."""
    runtime = optional_library("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        arrays = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, arrays)[0])

    return run
