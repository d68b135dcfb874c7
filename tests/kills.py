"""Runs that are killed at random moments, and what must be as if they had not been."""

import hashlib
import json
import multiprocessing
import os
import time
from pathlib import Path

import torch
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from consistency import watch
from consistency.process import stops
from consistency.tensor import weights_sha256
from tests.conftest import ROOT
from tests.forked import PRELOADED, enter
from tests.waits import joined

TINY = ["experiment=ict_digits", "trainer=cpu", "net.width=16", "net.blocks=1", "net.dropout=0.2"]
TINY += ["data.batch_size=16", "data.samples=64", "trainer.max_steps=60", "trainer.val_check_interval=20"]
TINY += ["callbacks.checkpoints.every=7", "trainer.log_every_n_steps=5", "callbacks.signals.count=16"]
TINY += ["rate.warmup=10", "curriculum.s1=40"]
CLOCKS = {"train/images_per_second"}  # which differ from run to run
LIMITS = dict.fromkeys(("scalars", "images", "tensors", "histograms", "compressedHistograms"), 0)


class Dies(Callback):
    """Sends its process a signal, once, in a hook at a step.

    Args:
        mark: a file that says that it has been done.
        hook: its name.
        step: k.
        signum: the signal.
    """

    def __init__(self, mark: str, hook: str, step: int, signum: int = 9) -> None:
        self.mark, self.step, self.signum = Path(mark), step, signum
        setattr(self, hook, self._strike)

    def _strike(self, trainer, *_, **__):
        if trainer.global_step == self.step and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), self.signum)


class StopsIn(Callback):
    """Sends its process a signal, once, between two pieces of a part of a validation.

    Args:
        mark: a file that then has a line for every piece that is done after the signal.
        part: its name.
        step: k.
        rank: of the process that is told.
        signum: the signal.
    """

    def __init__(self, mark: str, part: str, step: int, rank: int = 0, signum: int = 15) -> None:
        self.mark, self.part, self.step, self.rank, self.signum = Path(mark), part, step, rank, signum

    def setup(self, trainer, pl_module, stage):
        if stage == "fit" and trainer.global_rank == self.rank and not self.mark.exists():
            between = stops.stop_between

            def struck():
                now = watch._state.part
                if self.mark.exists():
                    self.mark.write_text(f"{self.mark.read_text()}piece\n")
                elif now is not None and now.name == self.part and trainer.global_step == self.step:
                    self.mark.touch()
                    os.kill(os.getpid(), self.signum)
                between()

            stops.stop_between = struck


def stops_in(directory, **how):
    """The override that has a run stop there."""
    words = ", ".join(f"{key}: {value}" for key, value in {"mark": f"{directory}.mark", **how}.items())
    return f"+callbacks.stops={{_target_: tests.kills.StopsIn, {words}}}"


def dies(directory, **how):
    """The override that has a run die."""
    words = ", ".join(f"{key}: {value}" for key, value in {"mark": f"{directory}.mark", **how}.items())
    return f"+callbacks.dies={{_target_: tests.kills.Dies, {words}}}"


def begin(directory, *words):
    """A run in a fork of a process that has imported everything."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    directory.mkdir(parents=True, exist_ok=True)
    out, err = (str(directory.parent / f"{directory.name}.{name}") for name in ("out", "err"))
    arguments = [*words, f"run_dir={directory}", "ckpt_path=last"]
    process = context.Process(target=enter, args=(str(ROOT / "train.py"), arguments, str(ROOT), out, err))
    process.start()
    return process


def finish(directory, *words):
    """Run to the end."""
    process = begin(directory, *words)
    status = joined(process, f"the run in {directory}")
    assert status == 0, (directory.parent / f"{directory.name}.err").read_text()


def kill(directory, seconds, *words):
    """Kill a run after a time; whether it was alive still."""
    process = begin(directory, *words)
    time.sleep(seconds)
    alive = process.is_alive()
    process.kill()
    process.join()
    return alive


def left(directory):
    """All that a run leaves and that must not depend on kills, by name."""
    found = {f"picture {path.name}": digest(path) for path in (directory / "samples").iterdir()}
    found |= {f"curve {name}": points for name, points in curves(directory / "tensorboard").items()}
    for name in ("best", "last", "good"):
        path = directory / "checkpoints" / f"{name}.ckpt"
        kept = content(path) if path.is_file() else {"file": "absent"}
        found |= {f"{name} {key}": value for key, value in kept.items()}
    result = json.loads((directory / "result.json").read_text())
    for name in ("metrics", "weights_sha256", "steps", "images", "rollbacks"):
        found[f"result {name}"] = result[name]
    return found


def differing(one, two):
    """Names of what is not the same."""
    return sorted(name for name in one.keys() | two.keys() if one.get(name) != two.get(name))


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def content(path):
    """Weights, averages, optimiser and step of a checkpoint."""
    kept = torch.load(path, weights_only=True)
    optimizer = kept["optimizer_states"][0]
    moments = {f"{i}.{k}": torch.as_tensor(v) for i, s in optimizer["state"].items() for k, v in s.items()}
    averages = kept["callbacks"]["EMA"]["averages"]
    return {
        "raw": weights_sha256(kept["state_dict"]),
        "averages": {name: weights_sha256(average) for name, average in averages.items()},
        "moments": weights_sha256(moments),
        "groups": optimizer["param_groups"],
        "step": kept["global_step"],
        "guard": str(kept["callbacks"]["Guard"]),
        "best": kept["callbacks"]["Checkpoints"],
    }


def curves(directory):
    """Points of scalars and images, and steps of the rest, by tag."""
    events = EventAccumulator(str(directory), size_guidance=LIMITS)
    events.Reload()
    found = {}
    for tag in events.Tags()["scalars"]:
        found[tag] = [(e.step, None if tag in CLOCKS else e.value) for e in events.Scalars(tag)]
    for tag in events.Tags()["images"]:
        found[tag] = [
            (e.step, hashlib.sha256(e.encoded_image_string).hexdigest()) for e in events.Images(tag)
        ]
    for tag in events.Tags()["tensors"]:
        found[tag] = [e.step for e in events.Tensors(tag)]
    return found
