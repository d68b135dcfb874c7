"""How long does a sampler take? Medians of repeats, at batch 1 and at the batch that pays best."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

LONGEST = 600.0  # seconds that may be asked for


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int, at_most: float) -> float:
    """Median time of a call, after one to warm up.

    Args:
        run: what is timed.
        device: waited for.
        repeats: calls, fewer once they have taken `at_most`.
        at_most: seconds for all calls, the last one excepted.
    """
    return side_by_side([run], device, repeats, at_most)[0]


def side_by_side(
    runs: Sequence[Callable[[], object]], device: torch.device, repeats: int, at_most: float
) -> list[float]:
    """Median times of calls that take turns, so that what else the machine does disturbs all alike.

    Args are those of `median_seconds`; `at_most` is for all runs together.
    """
    taken: list[list[float]] = []  # of each turn
    for run in runs:
        run()
    while not taken or (len(taken) < repeats and sum(map(sum, taken)) < at_most):
        taken.append([once(run, device) for run in runs])
    return [median(times) for times in zip(*taken, strict=True)]


def once(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    wait(device)
    since = time.perf_counter()
    run()
    wait(device)
    return time.perf_counter() - since


def wait(device: torch.device) -> None:
    """Until all that was asked of it is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_batch(run: Callable[[int], object], device: torch.device, most: int, at_most: float) -> int:
    """The batch of most images per second, doubled until memory ends or a call takes too long.

    Args:
        run: makes so many samples.
        device: where.
        most: no larger one is tried.
        at_most: seconds of a call, beyond which none is tried that is larger.
    """
    rates: dict[int, float] = {}
    size, spent = 1, 0.0
    while size <= most and spent < at_most:
        try:
            spent = median_seconds(lambda size=size: run(size), device, 1, at_most)
        except torch.OutOfMemoryError:
            break
        rates[size] = size / spent
        size *= 2
    return max(rates, key=rates.__getitem__, default=1)
