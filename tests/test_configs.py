"""Every experiment composes, builds, and makes two steps; the papers' numbers stand in the configs."""

import copy
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from omegaconf import OmegaConf, open_dict

from consistency.build import build, make
from consistency.command.explained import explain
from consistency.data.loader import Batch
from consistency.files.config import checked_config
from consistency.lit.callbacks.checkpoints import KeepConfig
from consistency.model.condition import NONE
from consistency.model.maps import Denoiser
from consistency.model.precond import EDM, Boundary
from consistency.nets.second import to_one_time
from consistency.schedule.draws import StepDraws
from consistency.schema.check import check_config
from tests.test_perceptual import STATE

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
TINY_UNET = ["net.channels=8", "net.multipliers=[1,2]", "net.blocks=1", "net.attention=[4]"]


@pytest.fixture(autouse=True)
def hydra():
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        yield


def composed(*overrides, name="train"):
    config = compose(name, overrides=list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    return config


def folder(path):
    from PIL import Image

    path.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(path / f"{i}.png")
    return path


def lpips(path):
    torch.save(STATE, path / "vgg16.pth")
    return [f"distance.backbone={path}/vgg16.pth", "distance.resize=32"]


def scaled_down(experiment, path):
    """Overrides that make the experiment fit a test: a small network, and a folder in place of a download."""
    config = composed(f"experiment={experiment}")
    special = lpips(path.parent) if "perceptual" in config.distance._target_ else []
    stored = [f"store.path={path.parent}/store", "store.count=32", "store.chunk=16"]
    special += stored if "store" in config else []
    special += ["teacher.path=nowhere"] if OmegaConf.is_missing(config.teacher, "path") else []
    if "MLP" in config.net._target_:
        return ["net.width=16", "net.blocks=1", *special]
    data = ["data=image_folder", f"data.root={folder(path)}", "data.resolution=8"]
    embedding = 8 if "Positional" in config.net.embedding._target_ else 16
    groups = ["net.groups=4"] if "groups" in config.net else []
    return [*data, *TINY_UNET, *groups, f"net.embedding.channels={embedding}", *special]


def taught(module, data):
    """The module in a run, with a teacher at hand: its own network, as the teacher's kind would have it."""
    strategy = SimpleNamespace(root_device=torch.device("cpu"), broadcast=lambda v: v)
    module._trainer = SimpleNamespace(strategy=strategy, is_global_zero=True, datamodule=data)
    kind = module.model.precond
    precond = EDM() if isinstance(kind, Boundary) else getattr(kind, "precond", kind)
    for asks in {"teacher", "start"} & {name for name, value in vars(module).items() if value is not None}:
        net = copy.deepcopy(module.model.net)
        to_one_time(net)
        setattr(module, asks, partial(Denoiser, net, precond))
    module.setup("fit")
    return module


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_learns_for_two_steps(experiment, tmp_path):
    small = scaled_down(experiment, tmp_path / "images")
    config = composed(f"experiment={experiment}", *small)
    data, module = build(config)
    taught(module, data)
    optimizer = module.optimizer(module.model.parameters())
    before = [p.detach().clone() for p in module.model.parameters()]
    for k in range(2):
        x = data.codec.encode(data.real()[:4])
        module.train()
        loss = module.terms(Batch(x).x, NONE, k, StepDraws(0, k)).loss.mean()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    moved = [not torch.equal(p, b) for p, b in zip(module.model.parameters(), before, strict=True)]
    assert any(moved)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_config_is_plain_data_and_its_callbacks_can_be_made(experiment, tmp_path):
    small = scaled_down(experiment, tmp_path / "images")
    config = composed(
        f"experiment={experiment}", "hydra.runtime.output_dir=" + str(tmp_path), *small, "metric=digits"
    )
    check_config(config, "train")
    plain = OmegaConf.to_container(config, resolve=True)
    assert all(isinstance(key, str) for key in plain)
    check_config(OmegaConf.create(plain), "train")  # as a checkpoint brings it to an evaluation
    kept = KeepConfig({str(key): node for key, node in plain.items()}).config
    assert checked_config(kept, "ckpt_path=x").to_plain() == kept
    for name, node in config.callbacks.items():
        assert make(node) is not None, name


def test_a_resolution_that_cannot_be_halved_is_refused_before_images_are_converted(tmp_path):
    images = folder(tmp_path / "images")
    config = composed("experiment=ict_photos", f"data.root={images}", "data.resolution=30")
    with pytest.raises(InstantiationException) as error:
        build(config)
    assert str(explain(error.value)).endswith("a multiple of 4")
    assert list(tmp_path.iterdir()) == [images]


@pytest.mark.parametrize(
    ("words", "parameters"),
    [
        ("ict_cifar10", 56_395_523),
        ("ict_cifar10 net=ncsnpp_deep", 97_610_499),
        ("edm_flip_cifar10", 56_395_523),
        ("edm_cifar10", 56_395_523 + 9 * 256),  # the augmentation label enters the embedding, without a bias
        ("ddpm_cifar10", 35_746_307),
    ],
)
def test_parameter_counts_of_the_papers(words, parameters):
    config = composed(*f"experiment={words}".split())
    with torch.device("meta"):
        net = make(config.net, shape=[3, 32, 32], classes=0)
    assert sum(p.numel() for p in net.parameters()) == parameters


def test_ict_on_cifar10_is_the_papers_recipe():
    c = composed("experiment=ict_cifar10")
    found = (
        c.data.batch_size,
        c.trainer.max_steps,
        c.optimizer.lr,
        c.ema.mu,
        c.net.dropout,
        c.net.embedding.scale,
    )
    assert found == (1024, 400_000, 1e-4, 0.99993, 0.3, 0.02)
    assert (c.curriculum.s0, c.curriculum.s1, c.curriculum.K) == (10, 1280, 400_000)
    assert (c.noise.mean, c.noise.std, c.distance.scale) == (-1.1, 2.0, 0.00054)
    assert (c.sigma.min, c.sigma.max, c.sigma.rho, c.sigma.data) == (0.002, 80, 7, 0.5)
    assert c.optimizer._target_ == "torch.optim.RAdam"
    assert c.optimizer.weight_decay == 0  # trap 12
    assert "gradient_clip_val" not in c.trainer
    assert list(c.samplers["2step"].sigmas) == [80, 0.821]


def test_ict_is_ct_with_the_papers_five_changes():
    ct, ict = (
        OmegaConf.to_container(composed(f"method={name}", "data=ring", "budget=points"), resolve=True)
        for name in ("ct", "ict")
    )
    ict = {key: value for key, value in ict.items() if value != ct[key]}
    parts = {"target", "distance", "curriculum", "noise", "weight"}
    follow = {"pairs", "objective", "module", "callbacks", "run_dir"}  # these quote the five
    assert parts <= ict.keys() <= parts | follow


def test_ct_on_cifar10_is_the_first_papers_recipe():
    c = composed("experiment=ct_cifar10")
    assert (c.data.batch_size, c.trainer.max_steps, c.optimizer.lr, c.ema.mu) == (512, 800_000, 4e-4, 0.9999)
    assert (c.curriculum.s0, c.curriculum.s1, c.target.mu.mu0, c.net.dropout) == (2, 150, 0.9, 0.0)


@pytest.mark.parametrize("trainer", ["auto", "cpu", "gpu", "ddp", "ddp_sim", "multi_node"])
def test_trainers_compose(trainer):
    config = composed(f"trainer={trainer}")
    assert config.trainer._target_ == "lightning.Trainer"
    assert config.trainer.precision == (
        "bf16-mixed" if trainer in {"gpu", "ddp", "multi_node"} else "32-true"
    )


def test_a_data_set_brings_its_metric_and_the_command_line_wins():
    target = {name: composed(f"data={name}").metric._target_ for name in ("ring", "digits")}
    assert target["ring"].endswith("Transport")
    assert target["digits"].endswith("Fidelity")
    assert "Random" in composed("data=digits", "metric=random_conv").metric.extractor._target_


def test_cd_on_cifar10_is_the_first_papers_recipe():
    c = composed("experiment=cd_cifar10")
    assert (c.data.batch_size, c.trainer.max_steps, c.optimizer.lr, c.ema.mu) == (512, 800_000, 4e-4, 0.9999)
    assert (c.curriculum.N, c.net.dropout, c.optimizer.weight_decay) == (18, 0.0, 0.0)
    assert c.target._target_.endswith("StopGradient")  # its target network has mu = 0
    assert c.flow.solver._target_.endswith("heun")
    lpips = composed("experiment=cd_lpips_cifar10").distance
    assert (lpips.average_pooling, lpips.always_resize) == (False, True)


def test_edm_on_cifar10_is_the_papers_recipe():
    c = composed("experiment=edm_cifar10")
    assert (c.data.batch_size, c.optimizer.lr, c.net.dropout, c.net.augment) == (512, 1e-3, 0.13, 9)
    assert (c.augmentation.p, c.data.flip, c.noise.mean, c.noise.std) == (0.12, False, -1.2, 1.2)
    assert 512 * c.trainer.max_steps == 200_000_000
    assert (c.ema.images, c.ema.rampup, 512 * c.rate.warmup // 10_000) == (500_000, 0.05, 999)
    assert c.samplers.heun35.sigmas.steps == 18


@pytest.mark.parametrize(
    "words",
    [["method=icd"], ["method=ecd"], ["method=icd", "target=ema"], ["target=ema_fixed", "distance=l1"]],
)
def test_improved_distillation_is_only_a_config(words, tmp_path):
    config = composed("experiment=cd_ring", *words, "net.width=16", "net.blocks=1")
    data, module = build(config)
    for k in (0, 4000, 7999):
        terms = taught(module, data).terms(data.real()[:8], NONE, k, StepDraws(0, k))
        assert terms.loss.isfinite().all()
