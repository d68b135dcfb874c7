"""Samples by the batch, with a bar."""

from collections.abc import Iterator

from rich.console import Console
from rich.progress import track
from torch import Tensor

from consistency.errors import UserError
from consistency.lit.data.loader import RequestLoader
from consistency.lit.data.module import DataModule
from consistency.lit.module import Module


def sampled(
    module: Module, data: DataModule, count: int, batch: int, seed: int
) -> Iterator[dict[str, Tensor]]:
    """Samples of every sampler, batch after batch, where the module is."""
    if count < 1 or batch < 1:
        raise UserError(f"task.count={count} and task.batch={batch} must be at least 1")
    loader = RequestLoader(count, data.shape, batch, seed, data.classes)
    for request in track(loader, "sampling", total=len(loader), console=Console(stderr=True)):
        label = None if request.label is None else request.label.to(module.device)
        yield module.sample(request._replace(z=request.z.to(module.device), label=label))
