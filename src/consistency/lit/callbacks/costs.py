"""The cost of a training step: network calls per sample, and memory."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from lightning import Callback, Trainer
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.weak import WeakIdKeyDictionary

from consistency.data.loader import Batch
from consistency.lit.module import Module
from consistency.model.maps import Map, observed
from consistency.nets.layers import has_tangent

MIB = 2**20
KINDS = ("forward", "jvp", "teacher")  # of calls


class Costs(Callback):
    """Measures the second optimiser step of a process, when the optimiser's state exists. No result changes.

    `calls` is the number of network calls per sample of the batch, by kind: `forward` through f and its
    target, `jvp` through either with a forward-mode derivative, `teacher` through the teacher's network.
    `memory_mib` is the peak memory in MiB of all tensors that the step uses, weights and optimiser state
    included; on a GPU, of all tensors on it. Both are None until the step has been measured.

    Args:
        compiled: whether the network is compiled. Its tensors are hidden then, and only a GPU's memory known.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled
        self.calls: dict[str, float] | None = None
        self.memory_mib: float | None = None
        self.measured_step, self.samples, self.counts = -1, 0, Counter[str]()
        self.measurement = ExitStack()
        self.peak: Callable[[], int | None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """Choose the step after this process's first."""
        self.measured_step = trainer.global_step + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, batch: Batch, index: int) -> None:
        """Begin to measure at the first batch of the step."""
        if trainer.global_step != self.measured_step:
            return
        if not self.samples:
            self.measurement.enter_context(observed(lambda f, x: self._count_call(pl_module, f, x)))
            self.peak = self.measurement.enter_context(measure_memory(pl_module.device, self.compiled))
        self.samples += len(batch.x)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Batch, index: int
    ) -> None:
        """Stop when the optimiser has made its step."""
        if self.samples and self.calls is None and trainer.global_step > self.measured_step:
            self.calls = {name: self.counts[name] / self.samples for name in KINDS}
            peak = self.peak()
            self.memory_mib = None if peak is None else peak / MIB
            self.measurement.close()

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """AbstractGuard no longer."""
        self.measurement.close()

    def _count_call(self, module: Module, f: Map, x: Tensor) -> None:
        forward, jvp, teacher = KINDS
        ours = any(f is part for part in module.modules())  # a teacher is no part of the module
        self.counts[(jvp if has_tangent(x) else forward) if ours else teacher] += len(x)


@contextmanager
def measure_memory(device: torch.device, compiled: bool) -> Iterator[Callable[[], int | None]]:
    """A function that returns the peak memory since the context was entered, in bytes.

    On a GPU it is that of the allocator, elsewhere that of the storages which operations use. None on a CPU
    for a compiled network.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
    elif compiled:
        yield lambda: None
    else:
        with Ledger() as ledger:
            yield lambda: ledger.peak


class Ledger(TorchDispatchMode):
    """Tracks the storages that operations read or write; `peak` is their largest total size, in bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and update the peak."""
        out = func(*args, **(kwargs or {}))
        for item in tree_iter((args, kwargs, out)):
            if isinstance(item, Tensor):
                self.alive[item.untyped_storage()] = None
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self.alive))
        return out
