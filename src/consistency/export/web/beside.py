"""What the page makes, held against Python: images for `#check`, and its formula on its network."""

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from consistency.export.model import Outgoing, Run
from consistency.export.onnx import run_onnx
from consistency.export.web.description import Row, edit_levels, lists
from consistency.export.web.noise import SAMPLES, PageDraws, normals
from consistency.export.web.packing import constants, floats, unpacked
from consistency.model.condition import given_label
from consistency.sampling.editing import restore
from consistency.sampling.masks import left_half
from consistency.sampling.operators import Inpainting
from consistency.sampling.samplers import MultiStep

SEED, COMPLETED = 1, 8  # of what #check makes
SHOWN = 64  # samples of it
NUMBERS = 2**16  # that they have in all, at most: they travel along


def expected_samples(model: Outgoing) -> dict[str, Any]:
    """Samples of the seed by number of calls, and completions of the first, whose right half is made."""
    count = max(COMPLETED, min(SHOWN, NUMBERS // prod(model.shape)))
    made = {calls: samples(model, calls, count) for calls in lists(model)}
    edit = edit_levels(model)
    y = made[1][:COMPLETED].clamp(edit.low, edit.high)
    A = Inpainting(model.shape, left_half)
    draws = PageDraws(SEED, range(COMPLETED))
    completed = restore(model.f, A, A.forward(y), edit, draws, given_label(model.labels(COMPLETED)))
    mask = A.known.expand(model.shape).flatten().int().tolist()
    return {
        "seed": SEED,
        "count": count,
        "samples": {str(calls): floats(x) for calls, x in made.items()},
        "completed": {"count": COMPLETED, "known": mask, "images": floats(completed)},
    }


@torch.no_grad()
def samples(model: Outgoing, calls: int, count: int) -> Tensor:
    """The page's first images of the seed, as torch makes them."""
    program = MultiStep(lists(model)[calls], model.sigma_min).program(model.f)
    z = [normals(SEED, SAMPLES, range(count), call, model.shape) for call in range(calls)]
    return program(torch.stack(z, 1), model.labels(count))


def read_back(path: Path) -> tuple[Run, dict[str, Run]]:
    """The network in the page's data, and the page's samplers, by name."""
    written = constants(path)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        file.write_bytes(unpacked(written["PACKED"]))
        network = run_onnx(file)
    steps: dict[str, list[Row]] = written["MODEL"]["steps"]
    return network, {f"{calls}step": page_sampler(network, rows) for calls, rows in steps.items()}


def page_sampler(network: Run, rows: list[Row]) -> Run:
    """`Network.sample` of page/network.js, in Python."""

    def run(z: Tensor, label: Tensor | None = None) -> Tensor:
        x = torch.zeros_like(z[:, 0])
        for k, row in enumerate(rows):
            x = x + row["added"] * z[:, k]
            noise = torch.full((len(x),), row["noise"])
            F = network(row["inp"] * x, noise, *(() if label is None else (label,)))
            x = row["skip"] * x + row["out"] * F
        return x

    return run
