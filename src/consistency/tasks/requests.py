"""Samples of a model in batches, with a progress bar, and a judge's numbers for them, with their card."""

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

NAME = "samples"  # the sampler's name for the judge, which sees one sampler at a time here


class SampleRange(NamedTuple):
    """A batch of samples.

    Args:
        index: their numbers, b of them.
        x: the samples in the network's units [b, ...].
    """

    index: range
    x: Tensor


def check_samples(count: int, batch: int, seed: int) -> None:
    """Check the arguments of a task that makes samples.

    Raises:
        UserError: a number below 1, more samples than `MOST`, or a seed that no generator takes.
    """
    within("task", 1, MOST, count=count)
    at_least("task", batch=batch)
    check_seed("task.seed", seed)


def generate_samples(
    session: Session,
    sampler: Sampler,
    count: int,
    batch: int,
    seed: int,
    name: str | None = "sampling",
    labels: Sequence[int] | None = None,
    is_saved: Callable[[range], bool] = lambda index: False,
) -> Iterator[SampleRange]:
    """Yield this process's share of `count` samples in batches, on the model's device.

    Sample i is the same for every count, batch size and number of processes.

    Args:
        session: has the model.
        sampler: makes the samples.
        count: number of samples over all processes.
        batch: samples per network call.
        seed: of the samples' noise.
        name: of the progress bar; None for no bar.
        labels: classes of the samples, repeated from the start as needed; None takes all classes in turn.
        is_saved: whether the samples of these numbers exist already and are skipped.
    """
    t = session.trained
    size = min(batch, max(1, -(-count // world())))  # every process gets a share if there are enough
    check_memory(f"task.batch={batch}", 4 * size * math.prod(t.shape))
    parts = RequestLoader(count, t.shape, size, seed, t.classes, rank(), world()).batches
    with progress_bar(name, len(parts)) as advance, torch.no_grad():
        for done, index in enumerate(parts, 1):
            if not is_saved(index):
                with session.fabric.autocast():
                    x = t.batch(sampler, index, seed, labels)
                yield SampleRange(index, x)
            advance(done)


def progress_bar(name: str | None, total: int) -> AbstractContextManager[Advance]:
    """A progress bar on the first process, as a function of the number done; without a name, no bar."""
    return progress(name, total, 0) if name and rank() == 0 else nullcontext(lambda now: None)


def prepare_judge(session: Session) -> Judge:
    """The judge of the checkpoint's samples, after it has seen the data.

    Raises:
        UserError: it cannot judge samples of this shape, or the data are too few.
    """
    t = session.trained
    real = t.data.real()
    t.judge.check(t.data.stored_shape, len(real), MOST, "task.count")  # `measure_distance` allows any number
    t.judge.begin(real, t.device)
    return t.judge


def measure_distance(judge: Judge, images: Tensor) -> float:
    """The judge's main number for uint8 images [M, C, H, W], after `prepare_judge`; NaN if M < 2."""
    if len(images) < 2:
        return float("nan")
    judge.update(NAME, images[rank() :: world()])  # every process has all images and judges its share
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
    """A judge's numbers for the samples of a sampler, recalled if their card is known, else measured.

    Args are those of `generate_samples`.
    """
    t = session.trained
    judge.check(t.data.stored_shape, len(t.data.real()), count, "task.count")
    judge.begin(t.data.real(), t.device)
    card = session.sampler_card(sampler, judge, count, seed)

    def measure() -> dict[str, float]:
        for part in generate_samples(session, sampler, count, batch, seed, name):
            judge.update(NAME, t.codec.decode(part.x))
        found = judge.compute()
        return {metric.removesuffix(f"/{NAME}"): value for metric, value in found.items()}

    fits = partial(plausible, needed=[judge.main])
    return Number(session.memo.once(card, measure, fits), card)
