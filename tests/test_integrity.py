"""Damage to any file that is read is noticed: refused in one line, made again, or without effect.

300 flipped bits and 100 cut ends of every format: `pytest -m slow tests/test_integrity.py -k every_bit -s`.
"""

import json
from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from consistency.checksum import content_sha256
from consistency.lit.checkpoint import AtomicCheckpointIO
from consistency.lit.data import cache, folder
from consistency.lit.data.folder import ImageFolder
from consistency.lit.data.points import Ring
from consistency.lit.data.rollouts import Store
from consistency.metrics import reference
from consistency.metrics.card import Card, Memo
from consistency.metrics.features import Extractor, classifier
from consistency.model.denoiser import Denoiser
from consistency.model.precond import Boundary
from consistency.nets.mlp import MLP
from consistency.tasks import schedules
from consistency.tasks.files import Array, Files
from consistency.teachers.checkpoint import read_checkpoint
from consistency.teachers.diffusers import WEIGHTS, diffusers, seal
from consistency.teachers.exported import read_exported, write_exported
from consistency.teachers.weights import read_pt
from tests.damage import AGAIN, EQUAL, OTHER, REFUSED, Format, outcomes

NET = {"_target_": "consistency.nets.mlp.MLP", "shape": [2], "width": 4, "blocks": 1}
PRECOND = {"_target_": "consistency.model.precond.Boundary", "time_scale": 0.25}
DENOISER = {"_target_": "consistency.model.denoiser.Denoiser", "net": NET, "precond": PRECOND}
CONFIG = {name: {} for name in ("data", "metric", "module", "net", "sigma")} | {"denoiser": DENOISER}


def denoiser():
    torch.manual_seed(0)
    return Denoiser(MLP((2,), width=4, blocks=1), Boundary())


def content(step=20, **changes):
    """What a run saves, on a tiny network."""
    f = denoiser()
    state = OrderedDict((f"denoiser.{name}", tensor) for name, tensor in f.state_dict().items())
    average = {name: p.detach() + 1 for name, p in f.named_parameters()}
    moments = {
        i: {"step": torch.tensor(20.0), "exp_avg": p.detach() * 2} for i, p in enumerate(f.parameters())
    }
    group = {"lr": 1e-3, "betas": [0.9, 0.999], "params": list(range(len(moments)))}
    return {
        "epoch": 0,
        "global_step": step,
        "state_dict": state,
        "callbacks": {"EMA": {"averages": {"ema": average}, "evaluate": "ema"}, "Checkpoints": {"best": 2.5}},
        "optimizer_states": [{"state": moments, "param_groups": [group]}],
        "lr_schedulers": [{"last_epoch": step}],
        "config": CONFIG,
        "experiment": "ict_digits",
    } | changes  # fmt: skip


def write(path, kept):
    path.parent.mkdir(parents=True, exist_ok=True)
    AtomicCheckpointIO().save_checkpoint(kept, path)
    return path


def alike(a, b):
    return content_sha256(a) == content_sha256(b)


# The formats: each writes its files once, and reads them as the program does


def ckpt(path, monkeypatch):
    file = write(path / "last.ckpt", content())
    return Format([file], lambda: (False, read_checkpoint(file)), alike)


def older_ckpt(path, monkeypatch):
    file = path / "last.ckpt"
    torch.save(content(), file)
    return Format([file], lambda: (False, read_checkpoint(file)), alike)


def exported(path, monkeypatch):
    file = path / "model.safetensors"
    about = {"config": CONFIG, "experiment": None, "step": 1, "weights": "ema", "sigmas": {"1step": [80.0]}}
    write_exported(file, {name: t.half() for name, t in denoiser().state_dict().items()}, about)
    return Format([file], lambda: (False, read_exported(file, "ckpt_path")), alike)


def diffusers_folder(path, monkeypatch):
    for name, said in {
        "unet": {"_class_name": "Network", "denoiser": DENOISER},
        "scheduler": {"x": 1},
    }.items():
        (path / name).mkdir()
        file = "config.json" if name == "unet" else "scheduler_config.json"
        (path / name / file).write_text(json.dumps(said))
    save_file(denoiser().state_dict(), path / "unet" / WEIGHTS)
    seal(path)

    def read():
        f = diffusers(path, nn.Identity())
        return False, {"weights": f.state_dict(), "precond": repr(f.precond)}

    return Format([file for file in path.rglob("*") if file.is_file()], read, alike)


class Sums(Extractor):
    """Four sums of pixels."""

    def __init__(self):
        super().__init__("sums", 4)
        self.freeze()

    def forward(self, images):
        return images.flatten(1).float().unflatten(1, (4, -1)).mean(2)


def counted(monkeypatch, owner, name):
    """Whether a function was called since the last question."""
    made, original = [], getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *args, **words: made.append(1) or original(*args, **words))

    def asked():
        found = bool(made)
        made.clear()
        return found

    return asked


def reference_features(path, monkeypatch):
    images = torch.randint(
        0, 256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    again = counted(monkeypatch, reference, "of_images")

    def read():
        found = reference.reference(images, Sums(), path)
        return again(), [found.features, *found.moments, found.floor]

    read()
    return Format([*path.glob("*.safetensors")], read, alike)


def memo(path, monkeypatch):
    made = []
    card = Card({"step": 1}, {"seed": 0}, {"version": 1})

    def read():
        made.clear()
        found = Memo(path).once(card, lambda: made.append(1) or {"precision": 0.47, "FD(digits)": 1 / 3})
        return bool(made), found

    read()
    return Format([*path.glob("*.json")], read, alike)


def image_cache(path, monkeypatch):
    monkeypatch.setattr(folder, "SPARE", path / "spare")
    for i, kind in enumerate(("cat", "dog")):
        (path / "images" / kind).mkdir(parents=True)
        Image.new("L", (4, 4), 40 + i).save(path / "images" / kind / "0.png")
    again = counted(monkeypatch, cache, "build")

    def read():
        data = ImageFolder(
            str(path / "images"), 4, 1, cache=str(path / "cache"), batch_size=1, conditional=True
        )
        return again(), [data.data.x, data.data.label, data.classes]

    read()
    return Format([f for f in (path / "cache").rglob("*") if f.suffix in (".npy", ".json")], read, alike)


def rollouts(path, monkeypatch):
    from tests.test_rollouts import FLOW, objective

    law, data = objective(), Ring(points=100, batch_size=16)

    def read():
        store = Store(path / "store", count=24, chunk=8)
        store.fill(FLOW, law, data)
        store.open()
        return False, {name: torch.from_numpy(np.array(column)) for name, column in store._columns.items()}

    read()
    return Format([*(path / "store").iterdir()], read, alike)


def sigma_lists(path, monkeypatch):
    schedules.keep(path / "last.ckpt", "a" * 64, {1: [80.0], 2: [80.0, 0.821]})

    def read():
        found = schedules.found_for(path / "last.ckpt", "a" * 64, 0.002)
        return not found, {name: recipe.keywords for name, recipe in found.items()}

    def same(value, good):  # left alone with a line where the hash of the weights was hit
        return not value or alike(value, good)

    return Format([schedules.path_of(path / "last.ckpt")], read, same)


def kept_samples(path, make):
    """Samples of a command that was stopped before the last, gone on with."""
    samples = torch.randint(
        0, 256, (4, 1, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    def read():
        keeper, again = make(), False
        keeper.__enter__()
        for i in range(4):
            if not keeper.has(range(i, i + 1)):
                keeper.keep(range(i, i + 1), samples[i : i + 1])
                again = True
        if isinstance(keeper, Array):
            return again, torch.from_numpy(np.array(keeper.samples))
        return again, torch.stack([torch.from_numpy(np.array(Image.open(f))) for f in sorted(path.iterdir())])

    read()
    return Format([*path.iterdir()], read, alike)


def arrays(path, monkeypatch):
    return kept_samples(path, lambda: Array(path / "1step.npy", (4, 1, 3, 3), torch.uint8))


def pngs(path, monkeypatch):
    return kept_samples(path, lambda: Files(path, (1, 3, 3)))


def foreign_pt(path, monkeypatch):
    torch.save(dict(denoiser().state_dict()), path / "edm_ema.pt")
    return Format([path / "edm_ema.pt"], lambda: (False, read_pt(path / "edm_ema.pt")), alike)


def extractor(path, monkeypatch):
    body, head = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), nn.Linear(2, 2)
    images = torch.randint(
        0, 256, (9, 1, 2, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    classifier.keep(path / "own.safetensors", body, head, images, 1.0)
    like = load_file(path / "own.safetensors")
    return Format(
        [path / "own.safetensors"],
        lambda: (False, classifier.read(path / "own.safetensors", like, "it", "script")),
        alike,
    )


FORMATS = [
    ckpt, older_ckpt, exported, diffusers_folder, reference_features, memo, image_cache, rollouts, sigma_lists,
    arrays, pngs, foreign_pt, extractor,
]  # fmt: skip


@pytest.mark.parametrize("make", FORMATS)
def test_damage_is_never_believed(make, tmp_path, monkeypatch, capsys):
    found = outcomes(make(tmp_path, monkeypatch), flips=30, cuts=10)
    assert found[OTHER] == 0, found
    assert found[REFUSED] + found[AGAIN] > 0, found


@pytest.mark.slow
@pytest.mark.parametrize("make", FORMATS)
def test_damage_to_every_bit_and_every_end_is_never_believed(make, tmp_path, monkeypatch, capsys):
    found = outcomes(make(tmp_path, monkeypatch), flips=300, cuts=100, seed=1)
    capsys.readouterr()
    with capsys.disabled():
        shown = ", ".join(f"{found[name]} {name}" for name in (REFUSED, AGAIN, EQUAL, OTHER))
        print(f"\n{make.__name__}: {shown}")
    assert found[OTHER] == 0
