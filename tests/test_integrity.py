"""Damage to any file that is read is noticed: refused in one line, made again, or without effect.

300 flipped bits and 100 cut ends of every format: `pytest -m slow tests/test_integrity.py -k every_bit -s`.
"""

import json
import shutil
import zipfile
from collections import OrderedDict
from dataclasses import asdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.utilities.migration import migrate_checkpoint
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from consistency.build import build, build_trainer
from consistency.data import cache
from consistency.errors import UserError
from consistency.files.checksum import content_sha256
from consistency.lit.checkpoint_io import AtomicCheckpointIO
from consistency.lit.data import folder
from consistency.lit.data.folder import ImageFolder
from consistency.lit.data.identity import check_identity
from consistency.lit.data.points import Ring
from consistency.lit.data.rollouts import Store
from consistency.lit.restored import MisfitError, check_restorable
from consistency.metrics import reference
from consistency.metrics.card import Card, Memo
from consistency.metrics.features import Extractor, classifier
from consistency.metrics.features.digits import WEIGHTS as DIGITS
from consistency.metrics.features.digits import DigitsFeatures
from consistency.metrics.training.classifier import write_weights
from consistency.model.maps import Denoiser
from consistency.model.precond import Boundary
from consistency.nets.mlp import MLP
from consistency.resume import find_checkpoint
from consistency.sampling.samplers import OneStep
from consistency.tasks import schedules
from consistency.tasks.make.files import Array, Files
from consistency.tasks.make.sample import Sample
from consistency.tasks.measure.gap import are_gaps
from consistency.tasks.requests import judge_samples
from consistency.tasks.schedule_file import Origin, SigmaList
from consistency.tasks.show import compare
from consistency.tasks.show.ladder_page import is_speed
from consistency.teach import teacher_directory as run_of_teacher
from consistency.teach import teacher_metrics
from consistency.teachers.checkpoint import checkpoint as teacher
from consistency.teachers.checkpoint import newest_whole, read_checkpoint, read_trained
from consistency.teachers.diffusers import WEIGHTS, diffusers, seal
from consistency.teachers.exported import read_exported, write_exported
from consistency.teachers.moments import check_moments
from consistency.teachers.openai import openai
from consistency.teachers.sealed import sealed
from consistency.teachers.weights import load_into, read_pt
from tests import sessions
from tests.damage import AGAIN, EQUAL, LONG, OTHER, REFUSED, Format, outcomes

NET = {"_target_": "consistency.nets.mlp.MLP", "shape": [2], "width": 4, "blocks": 1}
PRECOND = {"_target_": "consistency.model.precond.Boundary", "time_scale": 0.25}
DENOISER = {"_target_": "consistency.model.maps.Denoiser", "net": NET, "precond": PRECOND}
CONFIG = {name: {} for name in ("data", "metric", "module", "net", "sigma")} | {"model": DENOISER}


def denoiser():
    torch.manual_seed(0)
    return Denoiser(MLP((2,), width=4, blocks=1), Boundary())


def content(step=20, **changes):
    """What a run saves, on a tiny network."""
    f = denoiser()
    state = OrderedDict((f"model.{name}", tensor) for name, tensor in f.state_dict().items())
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
    again = counted(monkeypatch, reference, "compute_reference")

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
    again = counted(monkeypatch, cache, "build_cache")

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
    origin = Origin("FD(digits)", 5.5, count=2000, seed=1, budget=30)
    lists = {"1step": SigmaList([80.0]), "2step": SigmaList([80.0, 0.821], origin)}
    schedules.keep_lists(path / "last.ckpt", "a" * 64, lists)

    def read():
        found = schedules.read_found_samplers(path / "last.ckpt", "a" * 64, {"1step": OneStep([80.0])}, 0.002)
        values = {k: {"sigmas": list(s.sigmas), **s.described_options} for k, s in found.items()}
        return not found, values

    def same(value, good):  # left alone with a line where the hash of the weights was hit
        return not value or alike(value, good)

    return Format([schedules.schedule_path(path / "last.ckpt")], read, same)


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
    write_weights(path / "own.safetensors", body, head, images, 1.0)
    like = load_file(path / "own.safetensors")
    return Format(
        [path / "own.safetensors"],
        lambda: (False, classifier.read_features(path / "own.safetensors", like, "it", "script")),
        alike,
    )


FORMATS = [
    ckpt, older_ckpt, exported, diffusers_folder, reference_features, memo, image_cache, rollouts,
    sigma_lists, arrays, pngs, foreign_pt, extractor,
]  # fmt: skip


@pytest.mark.parametrize("make", FORMATS)
def test_damage_is_never_believed(make, tmp_path, monkeypatch, capsys):
    found = outcomes(make(tmp_path, monkeypatch), flips=30, cuts=10)
    assert found[OTHER] == found[LONG] == 0, found
    assert found[REFUSED] + found[AGAIN] > 0, found


@pytest.mark.slow
@pytest.mark.parametrize("make", FORMATS)
def test_damage_to_every_bit_and_every_end_is_never_believed(make, tmp_path, monkeypatch, capsys):
    found = outcomes(make(tmp_path, monkeypatch), flips=300, cuts=100, seed=1)
    capsys.readouterr()
    with capsys.disabled():
        shown = ", ".join(f"{found[name]} {name}" for name in (REFUSED, AGAIN, EQUAL, OTHER))
        print(f"\n{make.__name__}: {shown}")
    assert found[OTHER] == found[LONG] == 0


# Which checkpoint is taken


def run_of(path, **files):
    """A run directory with checkpoints of these steps; a file with None for a step is damaged."""
    for name, step in files.items():
        file = write(path / "checkpoints" / f"{name.replace('step', 'step=')}.ckpt", content(step or 1))
        if step is None:
            file.write_bytes(flip(file.read_bytes()))
    return path / "checkpoints"


def flip(data, place=0.5):
    place = int(place * len(data))
    return data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :]


def test_a_damaged_last_gives_way_to_the_newest_whole_one(tmp_path, capsys):
    kept = run_of(tmp_path, last=None, best=15, step00000010=10, step00000020=None)
    before = {path: path.read_bytes() for path in kept.iterdir()}
    assert find_checkpoint("last", tmp_path)[0] == kept / "best.ckpt"
    (line,) = capsys.readouterr().err.splitlines()
    assert str(kept / "last.ckpt") in line
    assert "damaged" in line
    assert line.endswith(f"instead: {kept / 'best.ckpt'}")
    assert {path: path.read_bytes() for path in kept.iterdir()} == before
    torch.testing.assert_close(teacher(tmp_path).net.stem.bias, denoiser().net.stem.bias + 1)
    assert newest_whole(tmp_path / "nowhere") is None
    with pytest.raises(UserError, match=r"last\.ckpt is damaged.*use the older checkpoint .*best\.ckpt"):
        read_checkpoint(kept / "last.ckpt")


def test_a_whole_last_is_taken_and_read_alone(tmp_path, monkeypatch, capsys):
    kept = run_of(tmp_path, last=15, best=20, step00000020=None)
    assert newest_whole(tmp_path) == kept / "last.ckpt"
    assert capsys.readouterr().err == ""


def test_numbered_ones_are_in_the_order_of_their_steps(tmp_path):
    kept = run_of(tmp_path, last=None, step00000900=900, step100000000=100_000_000, best=7)
    assert newest_whole(tmp_path) == kept / "step=100000000.ckpt"


def test_where_none_is_whole_the_run_cannot_go_on(tmp_path):
    run_of(tmp_path, last=None, best=None)
    with pytest.raises(UserError, match=r"no older checkpoint beside it is whole: begin anew"):
        newest_whole(tmp_path)


def test_a_run_that_diverged_is_refused_and_gone_on_with_from_before(tmp_path, capsys):
    kept = run_of(tmp_path, last=30, step00000010=10)
    bad = content(30)
    bad["state_dict"]["model.net.stem.bias"][1] = float("nan")
    write(kept / "last.ckpt", bad)
    words = r"NaN or infinity in model\.net\.stem\.bias.*; use the older checkpoint .*step=00000010"
    with pytest.raises(UserError, match=words):
        read_trained(kept / "last.ckpt")
    assert newest_whole(tmp_path) == kept / "step=00000010.ckpt"


def test_an_older_file_is_read_and_said_to_have_no_checksum(tmp_path, capsys):
    torch.save(content(), tmp_path / "last.ckpt")
    assert alike(read_checkpoint(tmp_path / "last.ckpt"), content())
    (line,) = capsys.readouterr().err.splitlines()
    assert "without a checksum" in line


@pytest.mark.parametrize("lost", ["format", "sha256"])
def test_half_a_seal_is_damage(tmp_path, lost):
    kept = sealed(content())
    del kept[lost]
    torch.save(kept, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="is damaged"):
        read_checkpoint(tmp_path / "last.ckpt")


# Contents that were edited, with a checksum that agrees


def edited(*keys, to):
    """Content in which the value at these keys is another; `del` removes it."""

    def edit():
        kept = node = content()
        for key in keys[:-1]:
            node = node[key]
        if to == "del":
            del node[keys[-1]]
        else:
            node[keys[-1]] = to
        return kept

    return edit


AVERAGE = ("callbacks", "EMA", "averages", "ema")
STEM = "model.net.stem.bias"
SEGMENT = {"steps": [0, 20], "seconds": 1.5, "batch_size": 16, "lr": 1e-3, "commit": None, "changed": {}}
LOOP: list = []
LOOP.append(LOOP)
EDITS = [
    (("global_step",), "del", "global_step=None is no count"),
    *((("global_step",), to, "global_step=.* is no count") for to in (-1, "x", 2.5, True, None, 2**70)),
    (("epoch",), "x", "epoch='x' is no count"),
    (("experiment",), 3, "experiment is of type int"),
    (("state_dict",), [1], "state_dict is of type list"),
    (("state_dict", STEM), "w", f"{STEM} is of type str"),
    (("state_dict", STEM), torch.ones(4).long(), f"int64 in {STEM}"),
    (("state_dict", STEM), torch.ones(4).bool(), f"bool in {STEM}"),
    (("state_dict", STEM), torch.ones(4) * 1j, f"complex64 in {STEM}"),
    (("state_dict", STEM), torch.tensor([1.0, float("inf"), 0, 0]), f"NaN or infinity in {STEM}"),
    (("state_dict", STEM), torch.ones(1).expand(4), f"fewer numbers than the shape of {STEM}"),
    (("state_dict", STEM), torch.ones(1).expand(10**12), "more bytes than the file"),
    (("state_dict", 7), torch.ones(4), "name 7 in state_dict is of type int"),
    (("config",), None, "config is of type NoneType"),
    (("config",), {"denoiser": torch.ones(2)}, "config holds a Tensor"),
    (("config",), {(1, 2): 3}, "key .* in config is of type tuple"),
    (("config",), {"net": LOOP}, "nested deeper"),
    (("config",), {"net": [0] * 100_001}, "more than 100,000 values"),
    (("callbacks",), "x", "callbacks is of type str"),
    (("callbacks", "EMA"), [1], r"callbacks\.EMA is of type list"),
    (("callbacks", "EMA", "averages"), None, "averages is of type NoneType"),
    (("callbacks", "EMA", "evaluate"), "slow", "evaluate='slow' is none of its averages"),
    (("callbacks", "EMA", "evaluate"), "del", "evaluate=None"),
    ((*AVERAGE, "net.other.bias"), torch.ones(4), r"net\.other\.bias is the average of no weight"),
    ((*AVERAGE, "net.stem.bias"), torch.ones(5), r"stem\.bias is the average of a weight of shape \[4\]"),
    ((*AVERAGE, "net.stem.bias"), torch.ones(4).int(), r"int32 in averages\.ema\.net\.stem\.bias"),
    ((*AVERAGE, "net.stem.bias"), torch.full((4,), float("nan")), r"NaN .* averages\.ema\.net\.stem\.bias"),
    (("callbacks", "Checkpoints", "best"), "low", "best='low' is no finite number"),
    (("callbacks", "Guard"), {"rollbacks": -1}, "rollbacks=-1 is no count"),
    (("callbacks", "Costs"), 3, r"callbacks\.Costs is of type int"),
    (("callbacks", "History"), [1], r"callbacks\.History is of type list"),
    (("callbacks", "History"), {}, r"History\.segments is of type NoneType"),
    (("callbacks", "History"), {"segments": {}}, r"History\.segments is of type dict"),
    (("callbacks", "History"), {"segments": [3]}, r"segments\.0 is of type int"),
    *(
        (("callbacks", "History"), {"segments": [SEGMENT, {**SEGMENT, name: to}]}, rf"segments\.1\.{words}")
        for name, to, words in (
            ("steps", 3, "steps is of type int"),
            ("steps", [0], "steps must be two steps in order"),
            ("steps", [9, 3], "steps must be two steps in order"),
            ("steps", [0, "x"], "steps='x' is no count"),
            ("seconds", "x", "seconds='x' is no finite number"),
            ("seconds", -1.0, "seconds=-1.0 is less than 0"),
            ("seconds", 10**400, "seconds=an integer of 1329 bits is no finite number"),
            ("seconds", True, "seconds=True is no finite number"),
            ("batch_size", 0, "batch_size=0 is less than 1"),
            ("batch_size", "x", "batch_size='x' is no count"),
            ("lr", "x", "lr='x' is no finite number"),
            ("device", "cpu\n[31m", "device is not a short printable text"),
            ("device", "x" * 5000, "device is not a short printable text"),
            ("commit", torch.ones(2), "commit is of type Tensor"),
            ("changed", [1], "changed is of type list"),
            ("changed", {"lr": torch.ones(2)}, "changed holds a Tensor"),
        )
    ),
    (("data",), 3, "data is of type int"),
    (("optimizer_states",), {}, "optimizer_states is of type dict"),
    (("optimizer_states", 0, "state"), None, r"optimizer_states\.state is of type NoneType"),
    (("optimizer_states", 0, "state", 0, "exp_avg"), torch.full((2,), float("nan")), r"state\.0\.exp_avg"),
    (("optimizer_states", 0, "param_groups", 0, "lr"), float("nan"), "lr=nan is no finite number"),
    (("optimizer_states", 0, "param_groups", 0, "params"), 4, "params is of type int"),
    (("lr_schedulers", 0, "last_epoch"), -3, "last_epoch=-3 is no count"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "to", "words"), EDITS)
def test_an_edited_checkpoint_ends_in_one_line(tmp_path, capsys, keys, to, words):
    kept = edited(*keys, to=to)()
    torch.save(kept, tmp_path / "older.ckpt")
    files = [tmp_path / "older.ckpt"]
    if "nested" not in words and "more bytes" not in words:  # cannot be hashed in a lifetime
        torch.save(sealed(kept), tmp_path / "new.ckpt")
        files.append(tmp_path / "new.ckpt")
    for file in files:
        with pytest.raises(UserError, match=words) as error:
            read_checkpoint(file)
        assert "\n" not in str(error.value)


def test_a_teacher_whose_average_lacks_a_parameter_is_refused(tmp_path):
    kept = edited(*AVERAGE, "net.stem.bias", to="del")()
    with pytest.raises(UserError, match=r"teacher\.path=.*averages\.ema lacks net\.stem\.bias"):
        teacher(write(tmp_path / "last.ckpt", kept))


def test_a_config_without_a_section_is_refused(tmp_path):
    path = sessions.checkpoint(tmp_path)
    for section, words in (("model", "teacher.path"), ("data", "ckpt_path")):
        kept = read_checkpoint(path)
        del kept["config"][section]
        file = write(tmp_path / f"{section}.ckpt", kept)
        opens = {"model": teacher, "data": lambda file: sessions.session(tmp_path / "out", file).trained}
        with pytest.raises(UserError, match=f"{words}=.*has no section {section} in its config"):
            opens[section](file)


# What a run takes up


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    """A tiny run's trainer, module and what it saved."""
    from tests.conftest import SMALL, run

    place = tmp_path_factory.mktemp("run")
    words = ["trainer.max_steps=20", "trainer.val_check_interval=20", "callbacks.checkpoints.keep_every=10"]
    ended = run("train.py", place / "run", *SMALL, *words)
    assert ended.status == 0, ended.err
    places = [f"callbacks.{name}.directory={place}" for name in ("samples", "checkpoints")]
    config = sessions.composed(
        "train", *SMALL, *words, *places, f"logger.tensorboard.save_dir={place}", "threads=1"
    )
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(HydraConfig, "get", lambda: SimpleNamespace(runtime=SimpleNamespace(choices={})))
    _, module = build(config)
    trainer = build_trainer(config, place, [])
    monkeypatch.undo()
    return trainer, module, place / "run"


@pytest.mark.parametrize(
    ("keys", "to", "words"),
    [
        (("optimizer_states", 0, "state", 0, "exp_avg"), torch.ones(3), r"state\.0\.exp_avg is not shaped"),
        (("optimizer_states", 0, "state", 99), {}, "99 is of no parameter"),
        (("optimizer_states", 0, "state"), {}, r"state\.0 is absent, and would begin anew"),
        (("optimizer_states", 0, "state", 1), "del", r"state\.1 is absent, and would begin anew"),
        (("optimizer_states", 0, "state", 1, "exp_avg_sq"), "del", r"state\.1\.exp_avg_sq is absent"),
        (("optimizer_states", 0, "state", 1, "exp_avg"), "x", r"state\.1\.exp_avg is not shaped"),
        *(
            (("optimizer_states", 0, "state", 1, "step"), to, rf"state\.1\.step is {words}")
            for to, words in (
                ("x", "of another type"),
                (20, "of another type"),
                (torch.tensor(20), "of another type"),
                (torch.tensor([20.0]), "of another type"),
                (torch.tensor(-1.0), "not from 0 to 20"),
                (torch.tensor(21.0), "not from 0 to 20"),
                (torch.tensor(2.5), "not from 0 to 20"),
            )
        ),
        (("callbacks", "EMA"), "del", r"callbacks\.EMA is absent, and its averages would begin anew"),
        (("callbacks", "EMA", "averages"), {}, "it has no average ema"),
        (("optimizer_states", 0, "param_groups", 0, "betas"), "del", "param_groups lack betas"),
        (("optimizer_states", 0, "param_groups", 0, "params"), [0], "param_groups do not fit"),
        (("optimizer_states",), [], "of 0 optimizers"),
        (("callbacks", "Guard", "spikes"), "del", "Guard cannot be taken up"),
        (("callbacks", "Guard", "spikes", "mean"), torch.ones(3), r"spikes\.mean has the shape \[3\]"),
        (("callbacks", "EMA", "averages", "ema", "net.stem.bias"), "del", r"ema lacks net\.stem\.bias"),
        (("loops",), "del", r"loops\.fit_loop is absent"),
        (("loops", "fit_loop", "epoch_progress"), "del", r"epoch_progress is absent"),
        (("loops", "fit_loop", "epoch_progress"), "x", r"epoch_progress is of type str"),
        (("global_step",), 19, "global_step=19, and its loops have counted 20"),
    ],
)
def test_what_a_run_cannot_take_up_is_one_line(resumable, keys, to, words):
    trainer, module, place = resumable
    kept = node = read_checkpoint(place / "checkpoints" / "last.ckpt")
    for key in keys[:-1]:
        node = node[key]
    if to == "del":
        del node[keys[-1]]
    else:
        node[keys[-1]] = to
    with pytest.raises(MisfitError, match=words) as error:
        check_restorable(trainer, module, kept)
    assert "\n" not in str(error.value)


def test_what_a_run_cannot_take_up_is_refused_with_the_name_of_the_file(resumable, tmp_path):
    from tests.conftest import SMALL, run

    shutil.copytree(resumable[2], tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    sessions.save_edited(read_checkpoint(last) | {"optimizer_states": []}, last)
    words = ["trainer.max_steps=40", "trainer.val_check_interval=20", "callbacks.checkpoints.keep_every=10"]
    again = run("train.py", tmp_path / "run", *SMALL, *words, "ckpt_path=last")
    assert again.status == 1, again.err
    assert f"ckpt_path={last} is malformed: optimizer_states are of 0 optimizers; use the older" in again.err


@pytest.mark.parametrize("version", ["x", 5, None, "1.0.0"])
def test_a_file_does_not_choose_migrations_of_lightning(resumable, tmp_path, version):
    kept = read_checkpoint(resumable[2] / "checkpoints" / "last.ckpt")
    kept["pytorch-lightning_version"] = version
    if version is None:
        del kept["pytorch-lightning_version"]
    sessions.save_edited(kept, tmp_path / "last.ckpt")
    found = AtomicCheckpointIO().load_checkpoint(tmp_path / "last.ckpt")
    migrated, applied = migrate_checkpoint(dict(found))
    assert alike(migrated, found)
    assert not applied


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (torch.optim.Adam, {}),
        (torch.optim.Adam, {"foreach": True, "amsgrad": True}),
        (torch.optim.AdamW, {"fused": True}),
        (torch.optim.RAdam, {"foreach": True}),
        (torch.optim.SGD, {}),
        (torch.optim.SGD, {"momentum": 0.9}),
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {"momentum": 0.9, "centered": True}),
        (torch.optim.Adafactor, {}),
    ],
)
def test_the_state_that_an_optimizer_writes_is_taken_up(kind, values):
    f = denoiser()
    optimizer = kind(f.parameters(), lr=1e-3, **values)
    for _ in range(2):
        for p in f.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    found, fresh = optimizer.state_dict()["state"], kind(f.parameters(), lr=1e-3, **values)
    assert check_moments(found, fresh, most=2) is None
    if "step" in found.get(0, {}):
        assert "step is not from 0 to 1" in str(check_moments(found, fresh, most=1))
    assert check_moments({}, fresh, most=2, complete=False) is None
    assert (check_moments({}, fresh, most=2) is None) == (not found)


def test_identities_of_other_types_are_other_data():
    here = {"count": 3, "points": [0.5, 1.0]}
    check_identity({"count": 3, "points": [0.5, 1.00001]}, here, "X")
    for there in ({"count": [3]}, {"points": [0.5, "x"]}, {"points": [10**400, 1.0]}, {"points": 3}):
        with pytest.raises(UserError, match=r"data: the .* not that of X"):
            check_identity(there, here, "X")


def test_a_run_goes_on_from_the_newest_whole_checkpoint(resumable, tmp_path):
    from tests.conftest import SMALL, run

    trainer, module, place = resumable
    check_restorable(trainer, module, read_checkpoint(place / "checkpoints" / "last.ckpt"))
    shutil.copytree(place, tmp_path / "run")
    kept = tmp_path / "run" / "checkpoints"
    for name in ("last", "best", "good", "step=00000020"):
        (kept / f"{name}.ckpt").write_bytes(flip((kept / f"{name}.ckpt").read_bytes()))
    words = ["trainer.max_steps=20", "trainer.val_check_interval=20", "callbacks.checkpoints.keep_every=10"]
    again = run("train.py", tmp_path / "run", *SMALL, *words, "ckpt_path=last")
    assert again.status == 0, again.err
    assert again.err.count("is taken instead") == 1
    assert f"resuming from {kept / 'step=00000010.ckpt'}" in again.out
    assert again.raw == json.loads((place / "result.json").read_text())["weights_sha256"]["raw"]


# Weights that are none, by format


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (torch.full((4,), float("nan")), "NaN or infinity"),
        (torch.ones(4).long(), "int64"),
        (torch.ones(4) * 1j, "complex64"),
    ],
)
def test_weights_that_are_none_are_refused_and_named(tmp_path, monkeypatch, values, words):
    state = {**denoiser().state_dict(), "net.stem.bias": values}
    with pytest.raises(UserError, match=f"teacher.path=a.pt.*net.stem.bias.*{words}|{words}.*net.stem.bias"):
        load_into(denoiser(), state, "a.pt")
    about = {"config": CONFIG, "experiment": None, "step": 1, "weights": "ema", "sigmas": {}}
    write_exported(tmp_path / "a.safetensors", state, about)
    with pytest.raises(UserError, match=rf"{words} in tensor net\.stem\.bias"):
        read_trained(tmp_path / "a.safetensors")
    diffusers_folder(tmp_path, monkeypatch)
    save_file(state, tmp_path / "unet" / WEIGHTS)
    seal(tmp_path)
    with pytest.raises(UserError, match=r"net\.stem\.bias"):
        diffusers(tmp_path, nn.Identity())


def test_an_export_without_a_checksum_is_refused(tmp_path):
    about = {"config": CONFIG, "experiment": None, "step": 1, "weights": "ema", "sigmas": {}}
    save_file(denoiser().state_dict(), tmp_path / "a.safetensors", {"consistency": json.dumps(about)})
    with pytest.raises(UserError, match="without a checksum, by an older version: export it again"):
        read_trained(tmp_path / "a.safetensors")


# Archives whose members are shorter than their tensors


def shortened(source, target):
    """The archive with half of its first storage, and checksums that agree."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            data = old.read(info)
            new.writestr(info.filename, data[: len(data) // 2] if info.filename.endswith("/data/0") else data)
    return target


def test_a_shortened_storage_is_refused(tmp_path):
    torch.save(dict(denoiser().state_dict()), tmp_path / "whole.pt")
    with pytest.raises(UserError, match=r"storage 0 is .* bytes and its tensors need .*fetch it again"):
        openai(shortened(tmp_path / "whole.pt", tmp_path / "short.pt"), nn.Identity())
    whole = write(tmp_path / "last.ckpt", content())
    with pytest.raises(UserError, match=r"storage 0 is .* bytes and its tensors need"):
        read_checkpoint(shortened(whole, tmp_path / "short.ckpt"))


# Numbers


def test_cached_numbers_that_cannot_be_are_measured_anew(tmp_path, capsys):
    card, other = (Card({"step": step}, {}, {}) for step in (1, 2))
    damaged = [{"precision(digits)": 1.47}, {"recall": "high"}, {"IS ±": -1.0}, {"FD": 10**400}, {"FD": True}]
    for found in (*damaged, {}, 3, [1.0], "x", {"FD": None}, {"FD": [1.0]}):
        Memo(tmp_path).keep(card.digest, {"card": vars(card), "found": found})
        assert Memo(tmp_path).once(card, lambda: {"precision": 0.5}) == {"precision": 0.5}
        assert "is damaged: its numbers are measured anew" in capsys.readouterr().err
    shutil.copy(tmp_path / f"{card.digest}.json", tmp_path / f"{other.digest}.json")
    assert Memo(tmp_path).once(other, lambda: {"precision": 0.6}) == {"precision": 0.6}
    assert "is damaged" in capsys.readouterr().err


def test_cached_numbers_of_another_set_of_metrics_are_measured_anew(ckpt_of_digits, tmp_path, capsys):
    opened = sessions.session(tmp_path / "out", ckpt_of_digits, cache=tmp_path / "cache")
    t = opened.trained

    def number():
        return judge_samples(opened, t.judge, t.samplers["1step"], 8, 8, 0, None)

    good = number()
    (path,) = (tmp_path / "cache").glob("*.json")
    capsys.readouterr()
    assert number() == good
    assert capsys.readouterr().err == ""
    for found in ({"other": 1.0}, {}, 7):
        Memo(tmp_path / "cache").keep(path.stem, {"card": asdict(good.card), "found": found})
        assert number() == good
        assert "is damaged: its numbers are measured anew" in capsys.readouterr().err


GAPS = {
    "source": "data",
    "sigma": [0.002, 80.0],
    "boundary": 0.0,
    "curves": {"self": [0.1], "trajectory": [0.1, 0.2], "reconstruction": [0.1, 0.2]},
}
SPEED = {"latency": 0.1, "throughput": 20.0, "batch": 4}


def test_cached_speeds_and_gaps_have_their_fields():
    assert is_speed(SPEED)
    assert are_gaps(GAPS)
    for found in (None, {}, [1], {**SPEED, "batch": 1.5}, {**SPEED, "latency": 0}, {**SPEED, "other": 1}):
        assert not is_speed(found)
    curves = ({}, [1], {**GAPS["curves"], "self": [0.1, 0.2]}, {**GAPS["curves"], "self": ["x"]})
    for found in (None, {}, *({**GAPS, "curves": curve} for curve in curves)):
        assert not are_gaps(found)
    for name, value in {"source": 3, "sigma": 3, "boundary": 10**400}.items():
        assert not are_gaps({**GAPS, name: value})


NUMBER = {
    "name": "1step",
    "values": {"FD": 1.0},
    "card": {"model": {}, "protocol": {}, "code": {"version": 1}, "commit": None},
}


@pytest.mark.parametrize(
    "number",
    [
        {**NUMBER, "name": [1]},
        {**NUMBER, "values": {"FD": "low"}},
        {**NUMBER, "values": {"FD": 10**400}},
        {**NUMBER, "values": {"FD": 1e308}},
        {**NUMBER, "values": {"FD": True}},
        {**NUMBER, "values": [1]},
        {**NUMBER, "card": {**NUMBER["card"], "code": {}}},
        {**NUMBER, "card": {**NUMBER["card"], "protocol": 3}},
        {**NUMBER, "card": None},
        7,
    ],
)
def test_an_edited_result_is_one_line(tmp_path, number):
    (tmp_path / "result.json").write_text(json.dumps({"numbers": [NUMBER]}))
    assert compare.read_numbers(tmp_path)["1step"][0].values == {"FD": 1.0}
    (tmp_path / "result.json").write_text(json.dumps({"numbers": [number]}))
    with pytest.raises(UserError, match=r"result\.json holds no numbers with cards"):
        compare.read_numbers(tmp_path)


def test_results_are_compared_by_the_metrics_that_all_sets_have(tmp_path):
    values = [{"FD": 1.0, "KD": 2.0}, {"FD": 3.0}], [{"FD": 1.0, "KD": 2.0}, {"FD": 4.0, "KD": 1.0}]
    results = []
    for i, sets in enumerate(values):
        (tmp_path / str(i)).mkdir()
        results.append(str(tmp_path / str(i)))
        numbers = [{**NUMBER, "values": some} for some in sets]
        (tmp_path / str(i) / "result.json").write_text(json.dumps({"numbers": numbers}))
    row = [("1step", compare.read_numbers(tmp_path / str(i))["1step"]) for i in range(2)]
    shown = compare.comparison_table(results, row)
    assert shown.head == ["result", "sampler", "FD"]
    assert [line[2] for line in shown.rows] == ["2 ± 1.4", "2.5 ± 2.1 (+0.5)"]
    row[1][1][1].values.pop("FD")
    with pytest.raises(UserError, match="share no metric of 1step"):
        compare.comparison_table(results, row)


@pytest.mark.parametrize(
    "levels", [[10**400], [True], ["80"], [2e6], [0.0], [-1.0], 80.0, [0.8, 80.0], {}, "abc", []]
)
def test_edited_noise_levels_are_one_line(tmp_path, levels):
    n = len(levels) if isinstance(levels, list) else 1
    schedules.keep_lists(tmp_path / "last.ckpt", "a" * 64, {})
    path = schedules.schedule_path(tmp_path / "last.ckpt")
    listed = {"sigmas": levels, "origin": None}
    for kept in (
        {"weights_sha256": "a" * 64, "sigmas": {str(n): levels}},  # the former format
        {"lists": {"a" * 64: {str(n): listed}}},
    ):
        path.write_text(json.dumps({**kept, "sha256": content_sha256(kept)}))
        with pytest.raises(UserError, match="is damaged: delete it"):
            schedules.read_found_samplers(tmp_path / "last.ckpt", "a" * 64, {}, 0.002)
    about = {"config": CONFIG, "experiment": None, "step": 1, "weights": "ema", "sigmas": {"1step": levels}}
    write_exported(tmp_path / "a.safetensors", denoiser().state_dict(), about)
    with pytest.raises(UserError, match=r"sigmas\.'1step' is (no list of falling noise levels|of type)"):
        read_exported(tmp_path / "a.safetensors", "ckpt_path")


@pytest.mark.parametrize("step", [-5, True, 10**4000, 2**53 + 1])
def test_the_step_of_an_export_is_a_count(tmp_path, step):
    about = {"config": CONFIG, "experiment": None, "step": step, "weights": "ema", "sigmas": {}}
    write_exported(tmp_path / "a.safetensors", denoiser().state_dict(), about)
    with pytest.raises(UserError, match=r"step=.* is no count") as error:
        read_exported(tmp_path / "a.safetensors", "ckpt_path")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"metrics": 3}', '{"metrics": {"FD": "low"}}'])
def test_a_teachers_result_that_was_edited_is_one_line(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    for reads in (run_of_teacher, teacher_metrics):
        with pytest.raises(UserError, match=r"result\.json is damaged"):
            reads(tmp_path)


def test_samples_without_their_words_are_not_gone_on_with(ckpt_of_digits, tmp_path):
    (tmp_path / "1step").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "1step" / "000000.png")
    with pytest.raises(UserError, match=r"1step holds samples, but sample\.json"):
        Sample(count=1, samplers=["1step"], files=True)(sessions.session(tmp_path, ckpt_of_digits))


def test_shipped_features_are_held_against_their_hash(tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "HERE", tmp_path)
    file = tmp_path / DIGITS.name
    shutil.copy(DIGITS, file)
    DigitsFeatures(file)
    file.write_bytes(flip(file.read_bytes()))
    with pytest.raises(UserError, match="is damaged, or has no sha256"):
        DigitsFeatures(file)


@pytest.fixture
def ckpt_of_digits(tmp_path_factory):
    return sessions.checkpoint(tmp_path_factory.mktemp("digits"))


def test_an_archive_that_says_it_spans_disks_is_damaged(tmp_path):
    """Python's own test of what is an archive raises then."""
    torch.save(content(), tmp_path / "last.ckpt")
    data = bytearray((tmp_path / "last.ckpt").read_bytes())
    end = data.rindex(b"PK\x06\x07")  # the locator of a 64-bit archive, which counts disks
    data[end + 16 : end + 20] = (7).to_bytes(4, "little")
    (tmp_path / "last.ckpt").write_bytes(data)
    with pytest.raises(UserError, match=r"last\.ckpt is no whole archive"):
        read_checkpoint(tmp_path / "last.ckpt")
