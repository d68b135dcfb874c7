"""Times of calls: medians over repeats, and the batch size with the highest throughput."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

LONGEST = 600.0  # seconds: upper bound of task.patience


def median_seconds(run: Callable[[], object], device: torch.device, repeats: int, at_most: float) -> float:
    """Median time of a call in seconds, after one call to warm up.

    Args:
        run: the call.
        device: on which it computes; it is synchronised before and after each call.
        repeats: number of timed calls, at most.
        at_most: seconds after which no further call begins.
    """
    return time_side_by_side([run], device, repeats, at_most)[0]


def time_side_by_side(
    runs: Sequence[Callable[[], object]], device: torch.device, repeats: int, at_most: float
) -> list[float]:
    """Median times of calls in seconds; they take turns, so that other load on the machine affects all.

    Args are those of `median_seconds`; `at_most` is for all calls together.
    """
    taken: list[list[float]] = []  # seconds [turn][call]
    for run in runs:
        run()
    while not taken or (len(taken) < repeats and sum(map(sum, taken)) < at_most):
        taken.append([time_call(run, device) for run in runs])
    return [median(times) for times in zip(*taken, strict=True)]


def time_call(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call."""
    synchronize(device)
    since = time.perf_counter()
    run()
    synchronize(device)
    return time.perf_counter() - since


def synchronize(device: torch.device) -> None:
    """Wait until the device has finished its queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def best_batch(run: Callable[[int], object], device: torch.device, most: int, at_most: float) -> int:
    """The batch size with the most samples per second, among powers of two.

    Args:
        run: makes this number of samples.
        device: on which it computes.
        most: the largest batch size to try.
        at_most: seconds; once a call takes longer, or memory runs out, no larger size is tried.
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
