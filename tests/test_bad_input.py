"""Whatever a user gets wrong ends in one line that names it and the remedy, and changes nothing."""

import os
import pickle
import runpy
import shutil
import sys
from dataclasses import dataclass

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf

from consistency.command.explained import explain
from consistency.console import LONGEST, one_line
from consistency.schema import hardware
from consistency.schema.check import check_config
from consistency.schema.kinds import value_fits
from consistency.sweep import oracle
from consistency.teachers.sealed import sealed
from tests.conftest import ROOT, SMALL, run

NOTICES = ("cache ", "converting ", "exporting ")  # of work whose length the machine decides
AGAIN = "run_dir={old} ckpt_path=last trainer.max_steps=30"
TINY = [*SMALL, "trainer.max_steps=20", "trainer.val_check_interval=20"]


@dataclass(frozen=True)
class Case:
    """Overrides, and what the one line must hold. Words in braces are places of the fixture `places`."""

    name: str
    overrides: str
    key: str
    remedy: str
    script: str = "train"


class Malice:
    """Unpickling it makes a directory."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


KEYS = [
    Case("unknown experiment", "experiment=ict_digts", "experiment=ict_digts", "did you mean 'ict_digits'?"),
    Case("unknown option of a group", "net=unett", "net=unett", "unet_"),
    Case("option of a group like no other", "net=zzz", "net=zzz", "ddpmpp, ddpmpp_scm, mlp"),
    Case("unknown group", "optimiser=adam", "optimiser", "did you mean 'optimizer'?"),
    Case("misspelt key", "optimizer.lrr=1", "optimizer.lrr", "did you mean 'lr'?"),
    Case("key like no other", "optimizer.zzz=1", "optimizer.zzz", "betas, foreach, lr, weight_decay"),
    Case("key of another section", "max_steps=5", "max_steps", "did you mean 'trainer.max_steps'?"),
    Case("misspelt key below a key", "callbacks.ema.evaluat=ema", "callbacks.ema.evaluat", "'evaluate'"),
    Case("added key", "+foo=1", "foo", "choose one of: "),
    Case("misspelt added key", "+sede=1", "sede", "did you mean 'seed'?"),
    Case("added section", "+optimiser.lr=1", "optimiser", "did you mean 'optimizer'?"),
    Case("added key of sigma", "+sigma.mni=1", "sigma.mni", "did you mean 'min'?"),
    Case("added argument", "+trainer.max_stps=5", "trainer.max_stps", "did you mean 'max_steps'?"),
    Case("forced argument", "++optimizer.lrr=1", "optimizer.lrr", "did you mean 'lr'?"),
    Case("added argument of the data", "+data.batchsize=1", "data.batchsize", "did you mean 'batch_size'?"),
    Case("added argument deep inside", "+module.objective.wait=1", "module.objective.wait", "objective.wait"),
    Case("option with dashes", "--experiment ict_digits", "--experiment", "experiment=VALUE"),
    Case(
        "equal sign in a value",
        "optimized_metric=a/step=1",
        "optimized_metric=a/step=1",
        "optimized_metric='a/step=1'",
    ),
    Case("equal sign in a path", "ckpt_path=a/step=1.ckpt", "ckpt_path=a/step=1.ckpt:", "no such file"),
    Case("equal signs in a list", "data.x=[a=1]", "data.x=[a=1]", "quote it, and each item"),
    Case("key of the choice before", "curriculum=constant curriculum.s1=9", "curriculum.s1", "choose one of"),
    Case("no override at all", "optimizer.lr", "optimizer.lr", "key=value"),
    Case("interpolation of nothing", "optimizer.lr=${nosuch}", "optimizer.lr", "nosuch"),
    Case("unknown key in a sweep", "-m seed=0,1 optimizer.lrr=1", "optimizer.lrr", "did you mean 'lr'?"),
]
VALUES = [
    Case("lr no number", "optimizer.lr=abc", "optimizer.lr=abc", "must be a number"),
    Case("steps no number", "trainer.max_steps=abc", "trainer.max_steps=abc", "must be a whole number"),
    Case("steps no whole number", "trainer.max_steps=2.5", "trainer.max_steps=2.5", "must be a whole number"),
    Case("seed no number", "seed=abc", "seed=abc", "must be a whole number"),
    Case("negative seed", "seed=-1", "seed=-1", "0 or greater"),
    Case("negative lr", "optimizer.lr=-1", "optimizer", "learning rate"),
    Case("batch 0", "data.batch_size=0", "data.batch_size=0", "at least 1"),
    Case("no multiple", "trainer.accumulate_grad_batches=5", "data.batch_size=32", "must be a multiple of 5"),
    Case("accumulation 0", "trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches=0", "1 or"),
    Case("validation interval 0", "trainer.val_check_interval=0", "trainer.val_check_interval=0", "1 or"),
    Case("steps 0", "trainer.max_steps=0", "trainer.max_steps=0", "1 or greater"),
    Case("negative sigma", "sigma.min=-0.1", "sigma.min=-0.1", "greater than 0"),
    Case("crossed sigmas", "sigma.min=90", "sigma.min=90", "0 < sigma.min < sigma.max"),
    Case("sigma_data 0", "sigma.data=0", "sigma.data=0", "greater than 0"),
    Case("rho 0", "sigma.rho=0", "sigma.rho=0", "greater than 0"),
    Case("noise without width", "noise.std=0", "noise.std=0", "greater than 0"),
    Case("crossed curriculum", "curriculum.s0=50 curriculum.s1=10", "curriculum.s0=50", "s0 <= s1"),
    Case("fewer steps than stages", "trainer.max_steps=2", "curriculum.K=2", "raise trainer.max_steps"),
    Case("no thread", "threads=0", "threads=0", "1 or greater"),
    Case("another horizon", "curriculum.K=7", "curriculum.K=7", "set them alike"),
    Case(
        "unknown average", "callbacks.ema.evaluate=eam", "callbacks.ema.evaluate=eam", "did you mean 'ema'?"
    ),
    Case(
        "decay above 1",
        "method=ct data=digits budget=minute target.mu.mu0=1.5",
        "target.mu.mu0=1.5",
        "below 1",
    ),
    Case("negative half-life", "ema.images=-1", "images=-1", "greater than 0"),
    Case(
        "key behind a reference",
        "callbacks.ema.decays.ema.mu=1",
        "callbacks.ema.decays.ema.mu",
        "change it there",
    ),
    Case("unknown metric", "optimized_metric=1stepp", "optimized_metric=1stepp", "did you mean '"),
    Case("network without images", "method=ict data=ring budget=points net=unet_small", "net", "net=mlp"),
    Case("too many levels", "net=unet_small net.multipliers=[1,1,1,1,1]", "net.multipliers", "shorten it"),
    Case("dropout above 1", "net.dropout=1.5", "net.dropout=1.5", "below 1"),
    Case("unknown precision", "trainer.precision=31", "trainer", "precision"),
    Case("no device", "trainer.devices=0", "trainer.devices=0", "1 or greater"),
    Case("no GPU", "trainer=gpu", "trainer.accelerator=gpu", "use trainer=cpu"),
    Case("no bf16", "trainer.precision=bf16-mixed", "trainer.precision=bf16-mixed", "precision=32-true"),
]
GROUPS = ["callbacks", "data", "ema", "method", "metric", "net", "noise", "objective", "precond"]
GROUPS += ["optimizer", "rate", "samplers", "trainer", "weight"]
SECTIONS = [
    *(Case(f"no {group}", f"{group}=null", f"{group}=NAME", "has no value") for group in GROUPS),
    Case("section taken away", "~optimizer", "optimizer", "choose one with optimizer=NAME"),
    Case("mapping for a list", "optimizer.betas={{x:1}}", "optimizer.betas={{x:1}}", "in configs/"),
    Case("argument taken away", "~module.seed", "module.seed has no value", "+module.seed=VALUE"),
    Case("no task", "task=null", "task=null has no value", "task=NAME", "eval"),
    Case("no fabric", "fabric=null", "fabric=null has no value", "fabric=NAME", "eval"),
    Case("number for a section", "net=5", "net=5", "net=NAME"),
    Case("number for a part", "noise._target_=5", "noise._target_=5", "full name of a class"),
    Case("another class", "net._target_=pathlib.PurePath", "net=PurePath does not suit", "mlp_small"),
    Case("averages null", "callbacks.ema.decays=null", "callbacks.ema.decays=null", "a mapping of"),
    Case("number for a callback", "callbacks.guard=5", "callbacks.guard=5", "a part"),
    Case(
        "flow of distillation in training", "flow=teacher", "flow=teacher does not suit", "(data, reference)"
    ),
    Case(
        "objective of a teacher in training",
        "objective=denoising",
        "objective=denoising does not suit module (ConsistencyTraining)",
        "(continuous, discrete, pseudo, slope_norm)",
    ),
    Case(
        "objective of training in a teacher",
        "method=edm data=ring budget=points objective=discrete",
        "objective",
        "Diffusion",
    ),
    Case(
        "flow of training in distillation",
        "experiment=cd_ring flow=data",
        "flow=data does not suit",
        "teacher",
    ),
    Case("levels without a chain", "noise=levels", "coordinate=linear does not suit noise", "ddpm_cosine"),
    Case(
        "stages for a grid",
        "curriculum=stages",
        "curriculum=stages does not suit pairs",
        "constant, doubling",
    ),
    Case("a grid for stages", "pairs=mapped", "curriculum=doubling does not suit pairs", "(stages)"),
]
EDM = "experiment=edm_digits"
BOUNDS = [
    Case("no points", "method=ict data=ring budget=points data.points=0", "data.points=0", "at least 2"),
    Case("negative modes", "method=ict data=ring budget=points data.modes=-3", "data.modes=-3", "at least 1"),
    Case(
        "more points than memory",
        "method=ict data=ring budget=points data.points=1000000000000",
        "data.points=",
        "GiB",
    ),
    Case("list for a number", "data.batch_size=[1,2]", "data.batch_size=[1, 2]", "a whole number"),
    Case("batch of too many", "data.batch_size=1000000000000", "data.batch_size=10", "at most 16777216"),
    Case("samples beyond memory", "data.samples=1000000000000", "data.samples=1000000000000", "GiB"),
    Case("no units", "net.width=0", "net.width=0", "at least 1"),
    Case("fraction of units", "net.width=1e9", "net.width=1000000000.0", "a whole number"),
    Case("a billion units", "net.width=1000000000", "net.width=1000000000", "at most"),
    Case("network beyond memory", "net.width=10000000", "parameters", "lower net.width"),
    Case("negative blocks", "net.blocks=-1", "net.blocks=-1", "at least 1"),
    Case("dropout of all", "net.dropout=1", "net.dropout=1", "below 1"),
    Case("number for a list", "optimizer.betas=0.5", "optimizer.betas=0.5", "a list of 2"),
    Case("learning rate 0", "optimizer.lr=0", "optimizer.lr=0", "greater than 0"),
    Case("infinite learning rate", "optimizer.lr=inf", "optimizer.lr=inf", "finite"),
    Case("no interval", "trainer.val_check_interval=null", "trainer.val_check_interval=null", "1 or greater"),
    Case("epochs 0", "trainer.max_epochs=0", "trainer.max_epochs=0", "train nothing"),
    Case("threads no number", "threads=abc", "threads=abc", "a whole number"),
    Case("a million threads", "threads=1000000", "threads=1000000", "at most 1024"),
    Case("infinite mean", "noise.mean=inf", "noise.mean=inf", "finite"),
    Case("mean beyond float", "noise.mean=1e9", "noise.mean=1000000000.0", "at most 20"),
    Case("spike no number", "callbacks.guard.spike=nan", "callbacks.guard.spike=nan", "finite"),
    Case("a billion grid points", "curriculum.s1=1000000000", "curriculum.s1=1000000000", "at most"),
    Case(
        "samplers null",
        f"{EDM} samplers.heun35=null samplers.euler18=null samplers.ddim18=null",
        "samplers",
        "keep at least",
    ),
    Case(
        "no noise level",
        f"{EDM} samplers.euler18.sigmas=[]",
        "samplers.euler18: sigmas=[]",
        "the first greater",
    ),
    Case("run_dir empty", "run_dir=", "run_dir= is empty", "run_dir=PATH"),
    Case("run_dir the checkout", f"run_dir={ROOT}", f"run_dir={ROOT}", "a directory of its own"),
    Case("data_dir empty", "data_dir=", "data_dir= is empty", "data_dir=PATH"),
    Case("negative seed of a task", "task.seed=-1", "task.seed=-1", "0 or greater", "eval"),
    Case("changes no mapping", "override=5", "override=5", "a mapping", "eval"),
    Case("no threads", "threads=0", "threads=0", "1 or greater", "eval"),
    Case("text for a list", "task.samplers=1step", "task.samplers=1step", "a list", "eval"),
    Case("wrong file", "ckpt_path=/etc/passwd", "ckpt_path=/etc/passwd", "written by this project", "eval"),
]
FILES = [
    Case("no root", "data=image_folder", "data.root", "data.root=FOLDER"),
    Case("no photographs", "experiment=ict_photos net=unet_patch", "data.root", "data.root=FOLDER"),
    Case("root missing", "data=image_folder data.root={nothing}", "data.root={nothing}", "does not exist"),
    Case("empty folder", "data=image_folder data.root={empty}", "data.root={empty}", "holds no image"),
    Case("text as image", "data=image_folder data.root={text}", "{text}/a.png", "skip_broken=true"),
    Case(
        "resolution 0",
        "data=image_folder data.root={text} data.resolution=0",
        "data.resolution=0",
        "at least 1",
    ),
    Case("no CIFAR-10", "data=cifar10 data.root={empty}", "{empty}", "cifar-10-python.tar.gz"),
    Case("no weights", "metric=inception metric.extractor.weights={nothing}", "{nothing}", "metric=digits"),
    Case("no cached weights", "metric=inception", "weights-inception", "metric.extractor.weights="),
    Case("damaged weights", "metric=inception metric.extractor.weights={random}", "{random}", "delete it"),
    Case("no checkpoint", "ckpt_path={nothing}", "ckpt_path={nothing}", "no such file"),
    Case("truncated checkpoint", "ckpt_path={truncated}", "ckpt_path={truncated}", "older checkpoint"),
    Case("random bytes", "ckpt_path={random}", "ckpt_path={random}", "use a"),
    Case("empty checkpoint", "ckpt_path={nil}", "ckpt_path={nil}", "older checkpoint"),
    Case("folder as checkpoint", "ckpt_path={empty}", "ckpt_path={empty}", "give a .ckpt"),
    Case("malicious pickle", "ckpt_path={malicious}", "ckpt_path={malicious}", "written by this project"),
    Case("malicious zip", "ckpt_path={malice}", "ckpt_path={malice}", "written by this project"),
    Case(
        "foreign checkpoint", "ckpt_path={foreign}", "ckpt_path={foreign}", "not a checkpoint of this project"
    ),
    Case("another network", "ckpt_path={ckpt} net.width=16", "net.width is 16 here", "give net.width=32"),
    Case("run_dir a file", "run_dir={text}/a.png", "{text}/a.png", "run_dir="),
    Case("run_dir below a file", "run_dir={text}/a.png/run", "{text}/a.png", "run_dir="),
    Case("run_dir not writable", "run_dir=/proc/nosuch/run", "/proc/nosuch", "run_dir="),
    Case("run_dir of a run", "run_dir={old}", "run_dir={old}", "ckpt_path=last"),
    Case(
        "resumed with another split", f"{AGAIN} trainer.accumulate_grad_batches=5", "data.batch_size=32", "5"
    ),
    Case(
        "key of an older version",
        "denoiser.precond.time_scale=2",
        "denoiser",
        "it is precond now",
    ),
    Case("group of an older version", "denoiser=edm", "denoiser", "it is precond now"),
    Case("resumed with another horizon", f"{AGAIN} curriculum.K=7", "curriculum.K=7", "set"),
]
MOONS = (
    "method=cd data=moons budget=points weight=inverse_gap teacher_run.experiment=edm_moons optimizer.lr=1e-3"
)
TEACHERS = [
    Case(
        "no teacher",
        "method=cd data=moons budget=points",
        "teacher.path has no value",
        "teacher_run",
    ),
    Case("teacher missing", f"{MOONS} teacher.path={{nothing}}", "teacher.path={nothing}", "no such file"),
    Case("folder without a run", f"{MOONS} teacher.path={{empty}}", "{empty}", "without checkpoints"),
    Case("consistency model as a teacher", f"{MOONS} teacher.path={{old}}", "teacher.path", "start=teacher"),
    Case(
        "teacher of a method without one",
        "method=ict data=moons budget=points teacher.path={old}",
        "teacher.path",
        "cd_",
    ),
    Case(
        "teacher of another kind",
        f"{MOONS} teacher_run.experiment=flow_moons",
        "precond",
        "velocity_jump",
    ),
    Case("batch of uneven parts", "trainer.accumulate_grad_batches=3", "data.batch_size=32", "multiple of 3"),
    Case("truncated teacher", f"{MOONS} teacher.path={{truncated}}", "teacher.path={truncated}", "older"),
    Case("malicious teacher", f"{MOONS} teacher.path={{malice}}", "teacher.path={malice}", "written by"),
    Case("teacher that calls", f"{MOONS} teacher.path={{meaning}}", "would call pathlib.Path.mkdir", "use a"),
    Case(
        "malicious .pkl",
        f"{MOONS} teacher=edm teacher.path={{malicious}}",
        "{malicious}",
        "would call posix.mkdir",
    ),
    Case("malicious .pt", f"{MOONS} teacher=openai teacher.path={{malice}}", "{malice}", "not loaded"),
    Case("no .pkl named", f"{MOONS} teacher=edm", "teacher.path has no value", "give a"),
    Case(
        "no folder",
        f"{MOONS} teacher=diffusers teacher.path={{empty}}",
        "teacher.path={empty}",
        "give a local folder of diffusers",
    ),
    Case("unknown teacher", f"{MOONS} teacher=emd", "teacher=emd", "did you mean 'edm'?"),
    Case("unknown first run", f"{MOONS} teacher_run.experiment=edm_mons", "edm_mons", "'edm_moons'"),
    Case("no substep", f"{MOONS} flow.substeps=0 teacher.path={{nothing}}", "teacher.path", "no such file"),
    Case("no VGG16", "experiment=cd_ring distance=lpips", "vgg16", "distance.backbone="),
    Case("augmented points", "method=edm data=moons budget=points augmentation=edm", "augmentation", "none"),
    Case(
        "chain of one",
        "experiment=ddpm_digits data=moons budget=points coordinate.T=1",
        "coordinate.T=1",
        "at least 2",
    ),
    Case("pairs that do not shrink", f"{MOONS} method=ecd pairs.q=1", "pairs.q=1", "greater than 1"),
]
EXPORT = "ckpt_path={ckpt} task=export task.formats.onnx=null"
BROKEN = "+task.formats.broken._target_=tests.test_export.Broken"
ASKED = [
    Case("nothing to evaluate", "", "ckpt_path", "ckpt_path=", "eval"),
    Case("unknown task", "task=smaple ckpt_path={ckpt}", "task=smaple", "did you mean 'sample'?", "eval"),
    Case("unknown weights", "ckpt_path={ckpt} weights=nosuch", "weights=nosuch", "raw, ema", "eval"),
    Case("no samples", "ckpt_path={ckpt} task.count=0", "task.count=0", "at least 1", "eval"),
    Case(
        "count no number", "ckpt_path={ckpt} task.count=x", "task.count=x", "must be a whole number", "eval"
    ),
    Case(
        "misspelt key of a task",
        "ckpt_path={ckpt} task.cuont=1",
        "task.cuont",
        "did you mean 'count'?",
        "eval",
    ),
    Case(
        "added key of a task", "ckpt_path={ckpt} +task.cuont=1", "task.cuont", "did you mean 'count'?", "eval"
    ),
    Case(
        "misspelt change",
        "ckpt_path={ckpt} +override.data.sede=1",
        "data.sede",
        "did you mean 'seed'?",
        "eval",
    ),
    Case(
        "unknown format",
        "ckpt_path={ckpt} task=export export=onx",
        "export=onx",
        "did you mean 'onnx'?",
        "eval",
    ),
    Case(
        "export with other numbers",
        f"{EXPORT} {BROKEN}",
        "export=broken: 1step differs",
        "nothing was kept",
        "eval",
    ),
    Case("nothing to export", EXPORT, "task.formats is empty", "export=onnx", "eval"),
    Case("missing", "ckpt_path={nothing}", "ckpt_path={nothing}", "no such file", "eval"),
    Case("run_dir of a run", "ckpt_path={ckpt} run_dir={old}", "run_dir={old}", "choose another", "eval"),
    Case("folder", "ckpt_path={empty}", "is a directory", "last.ckpt", "eval"),
    Case("truncated", "ckpt_path={truncated}", "ckpt_path={truncated}", "older checkpoint", "eval"),
    Case(
        "malicious config", "ckpt_path={config}", "would call pathlib.Path.mkdir (net.x.0)", "use a", "eval"
    ),
    Case(
        "malicious alias",
        "ckpt_path={alias}",
        "consistency.command.explained.Path.mkdir (net.x.0)",
        "use a",
        "eval",
    ),
    Case("malicious", "ckpt_path={malice}", "ckpt_path={malice}", "written by this project", "eval"),
]


def call(script, *overrides):
    """An entry point in this process, as if started from the shell; its exit status comes back."""
    sys.argv = [
        f"{script}.py",
        *sorted(overrides, key=lambda part: not part.startswith("-")),
    ]  # options first
    GlobalHydra.instance().clear()
    try:
        runpy.run_path(str(ROOT / f"{script}.py"), run_name="__main__")
    except SystemExit as end:
        return end.code
    return 0


@pytest.fixture(autouse=True)
def as_a_user(monkeypatch, tmp_path):
    """Without a network, a GPU, a cache of weights, or bf16."""
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(hardware, "CPUINFO", tmp_path / "nosuch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", offline)


def offline(*_, **__):
    from urllib.error import URLError

    raise URLError("no network")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that has ended."""
    ended = run("train.py", tmp_path_factory.mktemp("finished") / "old", *TINY)
    assert ended.status == 0, ended.err
    return ended.directory


@pytest.fixture
def places(finished, tmp_path):
    """What the overrides name: a finished run, and files that are none."""
    old = shutil.copytree(finished, tmp_path / "old")
    ckpt = old / "checkpoints" / "last.ckpt"
    named = {name: tmp_path / name for name in ("empty", "text", "nothing", "malicious", "malice", "foreign")}
    named |= {name: tmp_path / name for name in ("random", "truncated", "nil")}
    named["empty"].mkdir()
    named["text"].mkdir()
    (named["text"] / "a.png").write_text("no image")
    named["random"].write_bytes(bytes(range(7, 256)) * 9)
    named["truncated"].write_bytes(ckpt.read_bytes()[: ckpt.stat().st_size // 2])
    named["nil"].touch()
    named["malicious"].write_bytes(pickle.dumps(Malice(tmp_path / "harm")))
    torch.save({"state_dict": Malice(tmp_path / "harm"), "config": {}, "callbacks": {}}, named["malice"])
    torch.save({"weight": torch.ones(2)}, named["foreign"])
    named["meaning"] = tmp_path / "meaning"
    harm = {"_target_": "pathlib.Path.mkdir", "self": str(tmp_path / "harm")}
    kept = {"state_dict": {}, "callbacks": {}, "global_step": 0}
    torch.save(sealed({**kept, "config": {"model": harm}}), named["meaning"])
    for name, prefix in {"config": "pathlib", "alias": "consistency.command.explained"}.items():
        named[name] = tmp_path / name
        harm = {"_target_": f"{prefix}.Path.mkdir", "self": str(tmp_path / "harm")}
        torch.save(sealed({**kept, "config": {"net": {"x": [harm]}}}), named[name])
    return {**{name: str(path) for name, path in named.items()}, "old": str(old), "ckpt": str(ckpt)}


def snapshot(directory):
    """Every file: when it was written, and its content."""
    files = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize(
    "case",
    [*KEYS, *VALUES, *SECTIONS, *BOUNDS, *FILES, *TEACHERS, *ASKED],
    ids=lambda c: f"{c.script}: {c.name}",
)
def test_a_mistake_ends_in_one_line_that_helps(case, places, tmp_path, capfd):
    kept = shutil.copytree(places["old"], tmp_path / "kept")
    shutil.rmtree(
        kept / "checkpoints"
    )  # what else a run leaves; with checkpoints it would be refused at once
    before = snapshot(tmp_path)
    common = TINY if case.script == "train" else []
    if " net=" in f" {case.overrides}":
        common = [part for part in common if not part.startswith("net.")]
    overrides = [part.format_map(Known(places)) for part in case.overrides.split()]
    if not any(part.startswith("run_dir=") for part in overrides):
        overrides.insert(0, f"run_dir={kept}")
    status = call(case.script, *common, *overrides)
    err = capfd.readouterr().err
    assert status == 1, err
    lines = [line for line in err.splitlines() if not line.startswith(NOTICES)]
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert case.key.format_map(Known(places)) in err
    assert case.remedy in err
    after = snapshot(tmp_path)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if path.name in ("result.json", "last.ckpt")]
    assert not (tmp_path / "harm").exists()


class Known(dict):
    """Leaves `${nosuch}` what it is."""

    def __missing__(self, name):
        return f"{{{name}}}"


@pytest.mark.parametrize(
    ("script", "overrides"),
    [("train.py", ["optimizer.lrr=1"]), ("train.py", ["trainer=gpu", "ckpt_path=last"]), ("eval.py", [])],
)
def test_a_process_says_one_line_and_exits_with_1(tmp_path, script, overrides):
    ended = run(script, tmp_path / "run", *overrides, CUDA_VISIBLE_DEVICES="")
    assert ended.status == 1
    assert ended.err.startswith("error: ")
    assert ended.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one directory"),
        (["{nosuch}"], "overrides.json"),
        (["{file}"], "overrides.json"),
        (["{empty}"], "overrides.json"),
    ],
)
def test_the_table_of_no_sweep_is_answered_in_one_line(tmp_path, capsys, arguments, said):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    named = {name: tmp_path / name for name in ("nosuch", "file", "empty")}
    assert oracle.main([word.format_map(named) for word in arguments]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert said in err
    assert not [*(tmp_path / "empty").iterdir()]


@pytest.mark.parametrize("damaged", ["overrides.json", "failed.json", "result.json", "teacher/result.json"])
@pytest.mark.parametrize(
    "content",
    ["{", "[[", "{}", "[1]", '["a=[b"]', '["=="]', "null", "[" * 100_000, '{"state": "lost", "reason": ""}'],
)
def test_a_damaged_file_of_a_sweep_is_named(tmp_path, capsys, damaged, content):
    run = tmp_path / "0"
    (run / "teacher").mkdir(parents=True)
    (run / "overrides.json").write_text('["seed=0", "method=ict", "data=ring", "budget=points"]')
    if damaged.startswith("teacher"):
        (run / "result.json").write_text(
            '{"metrics": {}, "overrides": ["seed=0", "method=ict", "data=ring", "budget=points"]}'
        )
    (run / damaged).write_text(content)
    assert oracle.main([str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {run / damaged} ")


def test_a_line_of_a_library_is_one_line_without_colours():
    assert one_line("\x1b[31mfirst\x1b[0m\n\tsecond\x07\r third") == "first second third"
    assert len(one_line("x" * 10**6)) <= LONGEST + 1


def test_memory_that_is_not_there_is_answered_in_one_line():
    line = explain(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"))
    assert line is not None
    assert "data.batch_size" in line
    assert explain(RuntimeError("a bug")) is None


def raised(make):
    """What came of a constructor that a config named."""
    with pytest.raises(InstantiationException) as caught:
        instantiate({"part": make})
    return caught.value


def test_a_fault_of_ours_keeps_its_traceback():
    assert explain(KeyError("a bug")) is None
    assert explain(ValueError("a bug")) is None
    ours = raised({"_target_": "consistency.metrics.picture.picture", "samples": None, "count": 1})
    assert explain(ours) is None
    theirs = raised({"_target_": "torch.nn.Dropout", "p": 1.5})
    assert explain(theirs) == "part: dropout probability has to be between 0 and 1, but got 1.5"


def test_what_a_constructor_takes_may_be_added():
    config = OmegaConf.create(
        {
            "trainer": {
                "_target_": "lightning.Trainer",
                "limit_val_batches": 2,
                "max_steps": 3,
                "devices": "0,",
            },
            "data": {
                "_target_": "consistency.lit.data.digits.Digits",
                "batch_size": 8,
                "flip": True,
                "prefetch": 1,
            },
            "optimizer": {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 1, "fused": None},
            "callbacks": {
                "mine": {"_target_": "consistency.lit.callbacks.checkpoints.Checkpoints", "directory": "."}
            },
            "sigma": {"max": 90},
        }
    )
    check_config(config, "train")


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [1], [1.5, "a", None, True]),
        (float, [1, 1.5], ["a", None]),
        (int | None, [1, None], ["a", 1.5]),
        (bool, [True], [1, "a"]),
        (int | str, [1, "a"], [1.5]),
        (float | torch.Tensor, [1, 0.5], ["a"]),
    ],
)
def test_a_value_is_held_against_its_type(hint, good, bad):
    assert all(value_fits(value, hint) for value in good)
    assert not any(value_fits(value, hint) for value in bad)
