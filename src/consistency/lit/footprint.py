"""The memory that a network will need, computed before it is built."""

from collections.abc import Callable

from torch import nn

from consistency.errors import UserError
from consistency.process.capacity import GIB, machine_memory
from consistency.teachers.weights import outlined

TRAINING = 4  # copies of the weights: themselves, their gradient, two moments of an optimiser


def check_network(make: Callable[[], nn.Module], copies: int) -> None:
    """Refuse a network that does not fit into memory, by building it on the meta device.

    The state of the random number generators is not changed.

    Args:
        make: builds the network.
        copies: number of copies of its weights that will be held at once.

    Raises:
        UserError: it does not fit; gives its number of parameters.
    """
    net = outlined(make)
    if net is None:
        return
    size = copies * sum(t.numel() * t.element_size() for t in (*net.parameters(), *net.buffers()))
    memory = machine_memory()
    if size > memory:
        count = sum(p.numel() for p in net.parameters())
        raise UserError(
            f"net would have {count:,} parameters, which need at least {size / GIB:,.1f} GiB of memory, and "
            f"this machine has {memory / GIB:.1f} GiB: lower net.width, net.channels or net.blocks"
        )
