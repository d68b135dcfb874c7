"""Samples by the batch, with a bar, and numbers of them, with a card."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.data.loader import RequestLoader
from consistency.errors import at_least, check_seed, within
from consistency.library.model import MOST
from consistency.metrics.card import Number, plausible
from consistency.metrics.judge import Judge
from consistency.metrics.processes import rank, world
from consistency.process.capacity import check_memory
from consistency.sampling.samplers import Sampler
from consistency.tasks.session import Session
from consistency.watch import Advance, progress

NAME = "samples"  # for the judge: one sampler at a time


class SampleRange(NamedTuple):
    """Some samples, and their numbers among all."""

    index: range
    x: Tensor


def check_samples(count: int, batch: int, seed: int) -> None:
    """Refuse numbers of samples that are none, or that no disk holds, and seeds that no generator takes."""
    within("task", 1, MOST, count=count)
    at_least("task", batch=batch)
    check_seed("task.seed", seed)


def sampled(
    session: Session,
    sampler: Sampler,
    count: int,
    batch: int,
    seed: int,
    name: str | None = "sampling",
    labels: Sequence[int] | None = None,
    known: Callable[[range], bool] = lambda index: False,
) -> Iterator[SampleRange]:
    """This process's share of `count` samples, batch after batch, where the model is.

    Sample i is the same for every count, batch size and number of processes.

    Args:
        session: whose network it is.
        sampler: makes the samples.
        count: samples over all processes.
        batch: samples a forward.
        seed: of their noise.
        name: of the bar; None for no bar.
        labels: of the samples, one after the other and again; None takes all classes in turn.
        known: whether samples of these numbers need not be made.
    """
    t = session.trained
    size = min(batch, max(1, -(-count // world())))  # no process goes without, where there are enough
    check_memory(f"task.batch={batch}", 4 * size * math.prod(t.shape))
    parts = RequestLoader(count, t.shape, size, seed, t.classes, rank(), world()).batches
    with bar(name, len(parts)) as advance, torch.no_grad():
        for done, index in enumerate(parts, 1):
            if not known(index):
                with session.fabric.autocast():
                    x = t.batch(sampler, index, seed, labels)
                yield SampleRange(index, x)
            advance(done)


def bar(name: str | None, total: int) -> AbstractContextManager[Advance]:
    """How far the first process is."""
    return progress(name, total, 0) if name and rank() == 0 else nullcontext(lambda now: None)


def judging(session: Session) -> Judge:
    """The judge of a checkpoint's samples, once it has seen the data."""
    t = session.trained
    real = t.data.real()
    t.judge.check(
        t.data.stored_shape, len(real), MOST, "task.count"
    )  # of a few, `judge_distance` says nothing
    t.judge.begin(real, t.device)
    return t.judge


def judge_distance(judge: Judge, images: Tensor) -> float:
    """What a judge, who has seen the data, says of uint8 images [M, C, H, W]; NaN of a single one."""
    if len(images) < 2:
        return float("nan")
    judge.update(NAME, images[rank() :: world()])  # all processes have all of them
    return judge.compute()[f"{judge.main}/{NAME}"]


def judge_samples(
    session: Session,
    judge: Judge,
    sampler: Sampler,
    count: int,
    batch: int,
    seed: int,
    name: str | None = "sampling",
) -> Number:
    """What a judge says of samples of a sampler; known already where the card is.

    Arguments are those of `sampled`.
    """
    t = session.trained
    judge.check(t.data.stored_shape, len(t.data.real()), count, "task.count")
    judge.begin(t.data.real(), t.device)
    card = session.card(sampler, judge, count, seed)

    def measure() -> dict[str, float]:
        for part in sampled(session, sampler, count, batch, seed, name):
            judge.update(NAME, t.codec.decode(part.x))
        found = judge.compute()
        return {metric.removesuffix(f"/{NAME}"): value for metric, value in found.items()}

    fits = partial(plausible, needed=[judge.main])
    return Number(session.memo.once(card, measure, fits), card)
