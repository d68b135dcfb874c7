"""Calls of train.py and eval.py in the process of a test; the latter on networks that nobody trained."""

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from lightning import Fabric
from omegaconf import OmegaConf, open_dict

from consistency.build import build
from consistency.evaluate import open_checkpoint
from consistency.export.model import Outgoing
from consistency.files.checksum import content_sha256
from consistency.library.model import Provenance
from consistency.lit.checkpoint_io import AtomicCheckpointIO
from consistency.metrics.card import Memo
from consistency.model.condition import NONE
from consistency.run import train
from consistency.schedule.sigma import Sigma
from consistency.tasks.session import Session
from consistency.teachers.sealed import FORMAT
from tests.conftest import ROOT


def composed(name, *overrides):
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        return compose(name, overrides=list(overrides))


def checkpoint(folder, *overrides):
    """A network that nobody trained, as a run would leave it."""
    words = ["net.width=32", "net.blocks=1", "threads=1", f"run_dir={folder}"]
    config = composed("train", *words, f"data_dir={folder}", *overrides)
    _, module = build(config)
    generator = torch.Generator().manual_seed(0)
    state = {k: v + 0.2 * torch.randn(v.shape, generator=generator) for k, v in module.state_dict().items()}
    with open_dict(config):
        config.callbacks = config.logger = {}  # which an evaluation does not read
    plain = OmegaConf.to_container(config, resolve=True)
    path = folder / "checkpoints" / "last.ckpt"
    kept = {
        "state_dict": state,
        "config": plain,
        "callbacks": {},
        "global_step": 7,
        "role": module.model.role,
        "experiment": "ict_digits",
    }
    AtomicCheckpointIO().save_checkpoint(kept, path)
    return path


def save_edited(content, path):
    """Write a checkpoint with a checksum that fits, as whoever edits one could."""
    plain = {key: value for key, value in content.items() if key != "sha256"} | {"format": FORMAT}
    with suppress(ValueError, RuntimeError):  # what cannot be hashed, or is too large, has none
        plain["sha256"] = content_sha256(plain, 2**26)
    torch.save(plain, path)


def session(directory, ckpt, cache=None, precision="32-true", weights=None, overrides=()):
    """A call of eval.py in this process."""
    directory.mkdir(exist_ok=True)
    words = [f"ckpt_path={ckpt}", f"data_dir={ckpt.parent.parent}", "fabric=cpu", "threads=1", *overrides]
    config = composed("eval", *words)
    config.weights = weights
    fabric = Fabric(accelerator="cpu", devices=1)
    return Session(directory, fabric, precision, Memo(cache), None, lambda: open_checkpoint(config, fabric))


def outgoing(f, shape, classes, samplers, codec, sigma_min=0.002, **provenance):
    """A model as formats get it, of which nothing is known but what is given."""
    where = Provenance(Path("last.ckpt"), **provenance)
    return Outgoing(f, tuple(shape), classes, samplers, codec, Sigma(sigma_min), where)


class Watched:
    """The denoiser of a session, which counts its samples and may be stopped.

    Args:
        session: whose.
        calls: after so many it is stopped by Ctrl-C; None for never.
        f: in its place.
    """

    def __init__(self, session, calls=None, f=None):
        self.f, self.calls, self.made, self.labels = f or session.trained.f, calls, [], []
        self.role = session.trained.role
        session.trained = replace(session.trained, f=self)

    def __call__(self, x, sigma, c=NONE):
        if len(self.made) == self.calls:
            raise KeyboardInterrupt
        self.made.append(len(x))
        self.labels += [] if c.label is None else c.label.tolist()
        return self.f(x, sigma, c)


def train_here(directory, *words):
    """A run of train.py in this process; its result."""
    directory.mkdir(exist_ok=True)
    place = [f"run_dir={directory}", f"hydra.run.dir={directory}", f"hydra.runtime.output_dir={directory}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base="1.3"):
        config = compose("train", [*words, *place], return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        with open_dict(config):
            del config["hydra"]
        train(config)
    return json.loads((directory / "result.json").read_text())
