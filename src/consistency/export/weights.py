"""Export of weights and config as one safetensors file, which can be used like a checkpoint."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from consistency.codec.identity import codec_digest
from consistency.errors import UserError
from consistency.export.model import Outgoing, Written
from consistency.teachers.checkpoint import weights_of
from consistency.teachers.exported import read_exported, write_exported

DTYPES = {
    "float32": (torch.float32, 0.0),  # and the tolerance of samples
    "float16": (torch.float16, None),
    "bfloat16": (torch.bfloat16, None),
}


@dataclass(frozen=True)
class Safetensors:
    """Writes `model.safetensors`, for ckpt_path, teacher.path, or any loader of safetensors.

    Args:
        dtype: of the weights on disk: float32, float16 or bfloat16.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(
                f"task.formats.safetensors.dtype={self.dtype} is not known: choose one of {', '.join(DTYPES)}"
            )

    def __call__(self, model: Outgoing, folder: Path) -> Written:
        """Write the file; `runs` are the model's samplers with the weights read back from it."""
        dtype, tolerance = DTYPES[self.dtype]
        path = folder / "model.safetensors"
        state = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in model.f.state_dict().items()
        }
        sigmas = {name: list(levels) for name, levels in model.lists.items()}
        known = {"codec": codec_digest(model.codec), "names": model.provenance.classes, "sigmas": sigmas}
        write_exported(path, state, portable({**model.about, "step": model.provenance.step or 0, **known}))
        f = deepcopy(model.f)
        f.load_state_dict(weights_of(read_exported(path, "export"))[1])
        read_back = model.with_map(f)
        return Written([path], {name: read_back.sampled(name) for name in model.samplers}, tolerance)


def portable(node: Any) -> Any:
    """Plain data in which paths below the working directory are made relative to it, for use elsewhere."""
    if isinstance(node, Mapping):
        return {key: portable(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [portable(value) for value in node]
    here = f"{Path.cwd()}/"
    return node.removeprefix(here) if isinstance(node, str) else node
