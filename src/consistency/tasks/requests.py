"""Samples by the batch, with a bar, and numbers of them, with a card."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from consistency.data.loader import RequestLoader
from consistency.errors import UserError, at_least, check_seed, within
from consistency.metrics.card import Number, plausible
from consistency.metrics.judge import Judge
from consistency.metrics.processes import rank, world
from consistency.model.condition import NONE, Condition
from consistency.process.capacity import check_memory
from consistency.sampling.samplers import Sampler
from consistency.tasks.session import Session
from consistency.watch import Advance, progress

MOST = 10**8  # samples of a command
NAME = "samples"  # for the judge: one sampler at a time


class Part(NamedTuple):
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
) -> Iterator[Part]:
    """This process's share of `count` samples, batch after batch, where the module is.

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
    t, device = session.trained, session.trained.module.device
    size = min(batch, max(1, -(-count // world())))  # no process goes without, where there are enough
    check_memory(f"task.batch={batch}", 4 * size * math.prod(t.data.shape))
    loader = RequestLoader(count, t.data.shape, size, seed, t.data.classes, rank(), world())
    with bar(name, len(loader)) as advance, torch.no_grad():
        for done, index in enumerate(loader.batches, 1):
            if not known(index):
                draws, z, _ = loader.request(index)
                c = classes_of(labels, index, t.data.classes, device)
                with session.fabric.autocast():
                    x = sampler(t.f, z.to(device), c, draws.fork())
                yield Part(index, x)
            advance(done)


def classes_of(
    labels: Sequence[int] | None, index: Sequence[int], classes: int, device: torch.device
) -> Condition:
    """Classes of samples by their numbers: those asked for in turn, or all; nothing of a model without."""
    if not classes:
        return NONE
    asked = range(classes) if labels is None else labels
    return Condition(torch.tensor([asked[i % len(asked)] for i in index], device=device))


def check_labels(key: str, labels: Sequence[int], classes: int) -> None:
    """Refuse classes that the model does not know, or none at all.

    Args:
        key: with its value, for the message.
        labels: that were asked for.
        classes: of the model; 0 of one without labels.
    """
    if not labels or not all(0 <= label < classes for label in labels):
        there = f"0 to {classes - 1}" if classes else "none: it was trained without labels"
        raise UserError(f"{key}: the classes of this model are {there}")


def bar(name: str | None, total: int) -> AbstractContextManager[Advance]:
    """How far the first process is."""
    return progress(name, total, 0) if name and rank() == 0 else nullcontext(lambda now: None)


def judging(session: Session) -> Judge:
    """The judge of a checkpoint's samples, once it has seen the data."""
    t = session.trained
    real = t.data.real()
    t.judge.check(t.data.stored_shape, len(real), MOST, "task.count")  # of a few, `distance` says nothing
    t.judge.begin(real, t.module.device)
    return t.judge


def distance(judge: Judge, images: Tensor) -> float:
    """What a judge, who has seen the data, says of uint8 images [M, C, H, W]; NaN of a single one."""
    if len(images) < 2:
        return float("nan")
    judge.update(NAME, images[rank() :: world()])  # all processes have all of them
    return judge.compute()[f"{judge.main}/{NAME}"]


def judged(
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
    judge.begin(t.data.real(), t.module.device)
    card = session.card(sampler, judge, count, seed)

    def measure() -> dict[str, float]:
        for part in sampled(session, sampler, count, batch, seed, name):
            judge.update(NAME, t.data.codec.decode(part.x))
        found = judge.compute()
        return {metric.removesuffix(f"/{NAME}"): value for metric, value in found.items()}

    fits = partial(plausible, needed=[judge.main])
    return Number(session.memo.once(card, measure, fits), card)
