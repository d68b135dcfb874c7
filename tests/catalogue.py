"""Every key of every group × values of wrong kinds: made from the composed configs, tried in this process."""

import copy
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import torch
from omegaconf import OmegaConf, open_dict

from consistency.console import explain
from consistency.lit.hardware import check_counts, check_hardware
from consistency.model.denoiser import Denoiser
from consistency.model.precond import EDM, Boundary
from consistency.run import build, build_trainer, callbacks_of, check_metric, make
from consistency.schedule.draws import StepDraws
from consistency.schema import check_composed
from consistency.teach import find_teacher

SECONDS = 10  # of a case, before it counts as a hang


class Deleted:
    """In place of a value: the key is taken away, as `~key` does."""

    def __repr__(self):
        return "~"


VALUES = [
    None, "abc", "", True, -1, 0, 0.5, 1e9, 10**9, 10**30, float("nan"), float("inf"), -float("inf"),
    [], [1, 2], ["a"], {}, {"a": 1}, {"_target_": "pathlib.PurePath"}, Deleted(),
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A value for a key of a composed config."""

    composition: str
    key: str
    value: Any

    def __str__(self):
        return f"{self.composition}: {self.key}={self.value!r}"


def keys(node, path=""):
    """Every key of a config, sections included; what an interpolation refers to has a key of its own."""
    for key in list(node) if OmegaConf.is_dict(node) else range(len(node)):
        here = f"{path}.{key}".lstrip(".")
        yield here
        refers = OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)
        if not refers and OmegaConf.is_config(node[key]):
            yield from keys(node[key], here)


def cases(name, config):
    """All of a config."""
    return [Case(name, key, value) for key in keys(config) for value in VALUES]


def changed(config, case):
    """The config with one value changed."""
    config = copy.deepcopy(config)
    path, _, key = case.key.rpartition(".")
    with open_dict(config):
        node = OmegaConf.select(config, path) if path else config
        key = int(key) if OmegaConf.is_list(node) else key
        if isinstance(case.value, Deleted):
            del node[key]
        else:
            node[key] = case.value
    return config


@contextmanager
def limited(seconds):
    """TimeoutError after so many seconds of computing; other work of the machine does not count."""

    def late(number, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, late)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def train(config, directory):
    """What train.py does before anything is written; then a step of training, with a teacher at hand."""
    check_composed(config, "train")
    check_counts(config.trainer)
    check_hardware(config.trainer)
    find_teacher(config, directory)
    data, module = build(config)
    trainer = build_trainer(config, directory)
    check_metric(config.optimized_metric, module, callbacks_of(trainer))
    step(module, data)


def step(module, data):
    """One step of training; the loss is a finite number."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda v: v)
    module._trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, datamodule=data)
    for role in {"teacher", "start"} & {name for name, value in vars(module).items() if value is not None}:
        setattr(module, role, partial(Denoiser, copy.deepcopy(module.denoiser.net), teachers(module)))
    module.setup("fit")
    optimizer = module.configure_optimizers()["optimizer"]
    batch = data.on_after_batch_transfer(data.train_dataloader().batch(0), 0)
    loss = module.terms(batch.x[:4], None if batch.label is None else batch.label[:4], 0, StepDraws(0)).loss
    assert loss.isfinite().all(), f"loss is {loss.tolist()}"
    loss.mean().backward()
    optimizer.step()


def teachers(module):
    """What the network of a student's teacher means."""
    kind = module.denoiser.precond
    return EDM() if isinstance(kind, Boundary) else getattr(kind, "precond", kind)


def evaluate(config, directory):
    """What eval.py does before a checkpoint is opened."""
    check_composed(config, "eval")
    check_hardware(config.fabric)
    make(config.fabric)
    make(config.task)
    if config.get("metric"):
        make(config.metric)


def outcome(case, config, do, directory):
    """What comes of a case: refused, built, hang or traceback, and the line or the exception."""
    try:
        with limited(SECONDS):
            do(changed(config, case), directory)
    except TimeoutError:
        return "hang", case
    except Exception as error:
        line = explain(error)
        return ("traceback", error) if line is None else ("refused", line)
    return "built", None


def tally(outcomes):
    """How many of each."""
    return Counter(kind for kind, _ in outcomes)
