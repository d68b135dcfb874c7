"""What the page makes, held against Python: images for `#check`, and its formula on its network."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import atan, prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from consistency.export.model import Outgoing, Run
from consistency.export.web.description import Row, edit_levels, offered
from consistency.export.web.noise import SAMPLES, PageDraws, normals
from consistency.export.web.packing import constants, floats, unpacked
from consistency.model.condition import given_label
from consistency.sampling.editing import restore
from consistency.sampling.levels import steps
from consistency.sampling.masks import left_half
from consistency.sampling.operators import Inpainting
from consistency.sampling.samplers import Jumps, Sampler

SEED, COMPLETED = 1, 8  # of what #check makes
SHOWN = 64  # samples of it
NUMBERS = 2**16  # that they have in all, at most: they travel along
GAMMA, MIXED = 0.5, 4  # of the samples with some fresh noise, and their calls; of a flow map


def expected_samples(model: Outgoing) -> dict[str, Any]:
    """Samples of the seed by number of calls, and completions of the first, whose right half is made.

    Of a flow map also samples with some fresh noise.
    """
    count, ways = max(COMPLETED, min(SHOWN, NUMBERS // prod(model.shape))), offered(model)
    made = {calls: samples(model, each, count) for calls, each in ways.items()}
    mixed = [replace(each, gamma=GAMMA) for each in ways.values() if isinstance(each, Jumps)]
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
        "gamma": GAMMA,
        "mixed": {str(MIXED): floats(samples(model, each, count)) for each in mixed if each.nfe == MIXED},
        "completed": {"count": COMPLETED, "known": mask, "images": floats(completed)},
    }


@torch.no_grad()
def samples(model: Outgoing, sampler: Sampler, count: int) -> Tensor:
    """The page's first images of the seed, as torch makes them."""
    program = sampler.program(model.f)
    z = [normals(SEED, SAMPLES, range(count), call, model.shape) for call in range(program.noises)]
    return program(torch.stack(z, 1), model.labels(count))


def read_back(path: Path, opened: Callable[[Path], Run]) -> tuple[Run, dict[str, Run]]:
    """The network in the page's data, and the page's samplers, by name.

    Args:
        path: of the script with the data.
        opened: an ONNX file -> what it does.
    """
    written = constants(path)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        file.write_bytes(unpacked(written["PACKED"]))
        network = opened(file)
    by_calls: dict[str, list[Row]] = written["MODEL"]["steps"]
    jumps: dict[str, float] | None = written["MODEL"]["jumps"]
    if jumps is None:
        return network, {f"{n}step": page_sampler(network, rows) for n, rows in by_calls.items()}
    rows = {f"{n}jump": jump_rows(rows, 0.0, jumps["data"]) for n, rows in by_calls.items()}
    return network, {name: page_sampler(network, each) for name, each in rows.items()}


def jump_rows(rows: Sequence[Row], gamma: float, data: float) -> list[Row]:
    """`jumpRows` of page/network.js, in Python: how far each call leads, and what noise it begins with.

    Args:
        rows: of the levels, falling.
        gamma: γ, the share of fresh noise.
        data: σ_data, for h.

    Returns:
        Rows with `added`, `h`, and `keep`, the share s/t of x in the end of a jump.
    """
    made, added = list[Row](), rows[0]["sigma"]
    for row, (t, s) in zip(rows, steps([row["sigma"] for row in rows]), strict=True):
        end = s * (1 - gamma**2) ** 0.5
        made.append({**row, "added": added, "keep": end / t, "h": atan(end / data) / atan(t / data)})
        added = gamma * s
    return made


def page_sampler(network: Run, rows: list[Row]) -> Run:
    """`Network.sample` of page/network.js, in Python; of jumps without fresh noise z is that of the first."""

    def run(z: Tensor, label: Tensor | None = None) -> Tensor:
        x = torch.zeros_like(z[:, 0])
        for k, row in enumerate(rows):
            x = x + row["added"] * z[:, k] if row["added"] else x
            noise = torch.full((len(x),), row["noise"])
            second = (torch.full((len(x),), row["h"]),) if "h" in row else ()
            F = network(row["inp"] * x, noise, *second, *(() if label is None else (label,)))
            keep = row.get("keep", 0.0)
            x = keep * x + (1 - keep) * (row["skip"] * x + row["out"] * F)
        return x

    return run
