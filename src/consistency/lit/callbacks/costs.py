"""What a training step costs: calls of networks, and memory."""

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
    """Watches one optimiser step, the second, by which the optimiser has its state. It changes no number.

    `calls` says how often a sample goes through a network in a step: `forward`, through f and its target;
    `jvp`, through either with a derivative carried along; `teacher`, where that is a network. `memory_mib` is
    what all tensors take that the step uses, weights and optimiser state among them, when most are alive; on
    a GPU, all that are there. Both are None until a step has been watched.

    Args:
        compiled: whether the network is, which hides its tensors: memory is then counted on a GPU alone.
    """

    def __init__(self, compiled: bool = False) -> None:
        self.compiled = compiled
        self.calls: dict[str, float] | None = None
        self.memory_mib: float | None = None
        self.due, self.samples, self.through, self.watch = -1, 0, Counter[str](), ExitStack()
        self.peak: Callable[[], int | None] = lambda: None

    def on_train_start(self, trainer: Trainer, pl_module: Module) -> None:
        """The step to watch is the one after this process's first."""
        self.due = trainer.global_step + 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: Module, batch: Batch, index: int) -> None:
        """Begin to watch; a step may take several batches."""
        if trainer.global_step != self.due:
            return
        if not self.samples:
            self.watch.enter_context(observed(lambda f, x: self._note(pl_module, f, x)))
            self.peak = self.watch.enter_context(memory_watched(pl_module.device, self.compiled))
        self.samples += len(batch.x)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Module, outputs: Any, batch: Batch, index: int
    ) -> None:
        """Stop once the optimiser has made its step."""
        if self.samples and self.calls is None and trainer.global_step > self.due:
            self.calls = {name: self.through[name] / self.samples for name in KINDS}
            peak = self.peak()
            self.memory_mib = None if peak is None else peak / MIB
            self.watch.close()

    def on_exception(self, trainer: Trainer, pl_module: Module, exception: BaseException) -> None:
        """AbstractGuard no longer."""
        self.watch.close()

    def _note(self, module: Module, f: Map, x: Tensor) -> None:
        forward, jvp, teacher = KINDS
        weight = next(f.parameters(), None)  # by which a slice of a flow map is known too
        ours = any(weight is known for known in module.parameters())  # those of a teacher are not among them
        self.through[(jvp if has_tangent(x) else forward) if ours else teacher] += len(x)


@contextmanager
def memory_watched(device: torch.device, compiled: bool) -> Iterator[Callable[[], int | None]]:
    """The peak since, in bytes: what a GPU's allocator has seen, elsewhere what went to the kernels."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
    elif compiled:
        yield lambda: None
    else:
        with Ledger() as ledger:
            yield lambda: ledger.peak


class Ledger(TorchDispatchMode):
    """Keeps account of every storage that an operation reads or writes for as long as it is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.peak = WeakIdKeyDictionary(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation, and add up."""
        out = func(*args, **(kwargs or {}))
        for item in tree_iter((args, kwargs, out)):
            if isinstance(item, Tensor):
                self.alive[item.untyped_storage()] = None
        self.peak = max(self.peak, sum(storage.nbytes() for storage in self.alive))
        return out
