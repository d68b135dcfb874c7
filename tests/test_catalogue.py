"""Every key of every group × values of wrong kinds: each is refused in one line, or what it says is built.

The cases are made from the composed configs, so that a new group or key is among them at once. By default a
sample is tried; `-m slow` tries all and, with -s, prints how many there were.
"""

import copy
import math
import random
import re
import signal
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf, open_dict

from consistency.build import build, build_trainer, callbacks_of, make
from consistency.command.explained import explain
from consistency.console import one_line
from consistency.errors import call_configured
from consistency.lit.callbacks.reports import check_metric
from consistency.model.maps import Denoiser
from consistency.model.precond import EDM, Boundary
from consistency.schedule.draws import StepDraws
from consistency.schema.check import check_composed
from consistency.schema.hardware import check_counts, check_hardware
from consistency.teach import find_teacher
from tests.conftest import ROOT

SAMPLE = 45  # cases of each composition in the default suite
SECONDS = 20  # of computing that a case may take
MLP = ["net.width=8", "net.blocks=1", "data.batch_size=4"]
UNET = ["net.channels=8", "net.multipliers=[1,2]", "net.attention=[4]", "net.embedding.channels=8"]
TRAIN = {
    "training": ["experiment=ict_digits", "data.images=10", *MLP],
    "images": ["experiment=ict_digits", "data.images=10", "net=unet_small", "data.batch_size=4", *UNET],
    "teacher": ["method=edm", "data=ring", "budget=points", "data.points=64", *MLP],
    "distillation": ["experiment=cd_ring", "data.points=64", *MLP],
    "continuous": ["experiment=sct_digits", "data.images=10", *MLP],
    "tuning": ["experiment=ect_ring", "method=stable", "flow.size=256", "data.points=64", *MLP],
}
EVAL = {name: [f"task={name}"] for name in ("sample", "fidelity", "gap", "ladder", "report", "compare")}
EVAL |= {name: ["task=edit", f"edit={name}"] for name in ("inpaint", "stroke", "vary", "interpolate")}
EVAL |= {
    name: ["task=invert", f"operator={name}"] for name in ("box", "blur", "mri", "tomography", "scattered")
}
EVAL |= {"export": ["task=export", "export=[onnx,onnx_int8,safetensors,web,tensorrt]"]}


class Deleted:
    """In place of a value: the key is taken away, as `~key` does."""

    def __repr__(self):
        return "~"


OBJECT = {"_target_": "pathlib.PurePath"}  # which no part of a run is
NOT_FINITE = [float("nan"), float("inf"), -float("inf")]
NUMBERS = [-1, 0, 0.5, 1e9, 10**9, 10**30]
CONTAINERS = [[], [1, 2], ["a"], {}, {"a": 1}, OBJECT]
VALUES = [None, True, "abc", "", *NUMBERS, *NOT_FINITE, *CONTAINERS, Deleted()]

COUNTS = {"batch_size", "samples", "sample_batch", "points", "modes", "width", "blocks", "channels", "count"}
COUNTS |= {
    "batch",
    "levels",
    "steps",
    "projections",
    "substeps",
    "every",
    "N",
    "s0",
    "s1",
    "S",
    "K",
    "repeats",
}
COUNTS |= {"max_steps", "val_check_interval", "accumulate_grad_batches", "log_every_n_steps", "threads"}
POSITIVE = {"lr", "spike", "rho", "images", "sigma_min", "sigma_max", "width", "tolerance"}
READ = {"module", "data", "denoiser", "trainer", "callbacks", "logger", "metric", "sigma", "task", "fabric"}
MAY_BE_NAMES = ("trainer.", "fabric.", "logger.")  # Lightning takes names and lists for numbers


@dataclass(frozen=True)
class Case:
    """A value for a key of a composed config."""

    key: str
    value: Any
    usual: Any  # what stands there

    def __str__(self):
        return f"{self.key}={self.value!r}"

    @property
    def nonsense(self):
        """Whether the value must be refused, whatever else may be accepted."""
        name, number = self.key.rpartition(".")[2], isinstance(self.usual, int | float)
        if isinstance(self.value, float) and not math.isfinite(self.value):
            return True
        if isinstance(self.value, int | float) and not isinstance(self.value, bool):
            zero = name in COUNTS | POSITIVE and number and not isinstance(self.usual, bool)
            return zero and self.value <= 0
        if self.value in ("abc", "") or isinstance(self.value, list | dict):
            return number and not self.key.startswith(MAY_BE_NAMES)
        return False


def keys(node, path=""):
    """Every key of a config with its value; what an interpolation refers to has a key of its own."""
    for key in list(node) if OmegaConf.is_dict(node) else range(len(node)):
        here = f"{path}.{key}".lstrip(".")
        refers = OmegaConf.is_interpolation(node, key) or OmegaConf.is_missing(node, key)
        yield here, None if refers else node[key]
        if not refers and OmegaConf.is_config(node[key]):
            yield from keys(node[key], here)


def cases(config):
    """All cases of a config."""
    used = sections(config)
    return [
        Case(key, value, usual if key.partition(".")[0] in used else None)
        for key, usual in keys(config)
        for value in VALUES
    ]


def sections(config):
    """Names of the sections that are read: by the entry points, and by others that refer to them."""
    text = {
        str(name): OmegaConf.to_yaml(config[name]) for name in config if OmegaConf.is_config(config[name])
    }
    used, new = set(), {*config} - {*text} | READ
    while new:
        used |= new
        found = {name for part in new for name in re.findall(r"\$\{([a-z_]+)", text.get(part, ""))}
        new = found - used
    return used


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
    """TimeoutError after so many seconds of computing; what else the machine does is not counted."""

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
    trainer = build_trainer(config, directory, [])
    check_metric(config.optimized_metric, module, callbacks_of(trainer))
    step(module, data)


def step(module, data):
    """One step of training; the loss is a finite number."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda v: v)
    module._trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, datamodule=data)
    for role in {"teacher", "start"} & {name for name, value in vars(module).items() if value is not None}:
        setattr(module, role, partial(Denoiser, copy.deepcopy(module.model.net), meaning(module)))
    module.setup("fit")
    optimizer = module.configure_optimizers()
    batch = data.on_after_batch_transfer(data.train_dataloader().batch(0), 0)
    loss = module.terms(batch.x[:4], batch.c.rows(slice(4)), 0, StepDraws(0)).loss
    assert loss.isfinite().all(), f"loss is {loss.tolist()}"
    loss.mean().backward()
    optimizer.step()


def meaning(module):
    """What the network of a student's teacher means."""
    kind = module.model.precond
    return EDM() if isinstance(kind, Boundary) else getattr(kind, "precond", kind)


def evaluate(config, directory):
    """What eval.py does before a checkpoint is opened; an operator is made for 8x8 images."""
    check_composed(config, "eval")
    check_hardware(config.fabric)
    make(config.fabric)
    task = make(config.task)
    maker = getattr(getattr(task, "change", task), "operator", None)
    if maker is not None and "MaskFile" not in str(config.task):
        call_configured("operator", maker, [1, 8, 8])


def outcome(case, config, do, directory):
    """What comes of a case: refused, built, hang or traceback; and the line, or the exception."""
    try:
        with limited(SECONDS):
            do(changed(config, case), directory)
    except TimeoutError:
        return "hang", case
    except Exception as error:
        line = explain(error)
        return ("traceback", error) if line is None else ("refused", one_line(line))
    return "built", None


@pytest.fixture(autouse=True)
def quiet(monkeypatch, tmp_path):
    """Nothing is compiled, nothing comes from the network, and there is no GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *_, **__: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        yield
    torch.set_num_threads(threads)


def composed(name, overrides, directory):
    """A config, and Hydra as it is when that runs."""
    places = [f"run_dir={directory}", f"data_dir={directory}/data", f"hydra.runtime.output_dir={directory}"]
    config = compose(name, [*overrides, *places], return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def check(some, config, do, directory):
    """Try the cases; how many came to what."""
    tally, wrong, before = Counter(), [], sorted(directory.parent.rglob("*"))
    for case in some:
        kind, why = outcome(case, config, do, directory)
        tally[kind] += 1
        if kind in ("hang", "traceback") or (kind == "built" and case.nonsense):
            wrong.append(f"{case}: {kind} {why!r}")
        if kind == "refused":
            assert why
            assert "\n" not in why
    assert not wrong, "\n".join(wrong)
    assert sorted(directory.parent.rglob("*")) == before  # nothing is written
    return tally


def every(entry, name, directory):
    """All cases of a composition, its config, and what tries them."""
    words, do = (TRAIN[name], train) if entry == "train" else (EVAL[name], evaluate)
    device = "trainer=cpu" if entry == "train" else "fabric=cpu"
    config = composed(entry, [*words, device, "threads=1"], directory)
    do(copy.deepcopy(config), directory)  # unchanged, it runs
    return cases(config), config, do


COMPOSITIONS = [*(("train", name) for name in TRAIN), *(("eval", name) for name in EVAL)]


@pytest.mark.filterwarnings("ignore")  # of libraries, at what they are asked for
@pytest.mark.parametrize(("entry", "name"), COMPOSITIONS, ids=lambda part: part)
def test_bad_values_are_refused_in_a_line_or_mean_something(entry, name, tmp_path):
    found, config, do = every(entry, name, tmp_path / "run")
    some = random.Random(name).sample(found, min(SAMPLE if entry == "train" else SAMPLE // 3, len(found)))
    tally = check(some, config, do, tmp_path / "run")
    assert tally["refused"] > len(some) / 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("entry", "name"), COMPOSITIONS, ids=lambda part: part)
def test_all_of_them(entry, name, tmp_path):
    found, config, do = every(entry, name, tmp_path / "run")
    tally = check(found, config, do, tmp_path / "run")
    print(f"\n{entry} {name}: {len(found)} cases, {dict(tally)}")
