"""Several processes: every network can be trained by them, and on the device that the config means."""

from types import SimpleNamespace

import pytest
import torch

from consistency.build import build
from consistency.errors import UserError
from consistency.model.condition import given_label
from consistency.schedule.draws import StepDraws
from consistency.schema import hardware
from consistency.schema.hardware import check_hardware
from tests.sessions import composed

UNET = ["net.channels=8", "net.multipliers=[1,2]", "net.attention=[4]"]
NETS = {
    "mlp": ["net=mlp", "net.width=16", "net.blocks=1"],
    "unet": ["net=unet_small", "net.embedding.channels=8", *UNET],
    "unet with augmentation": ["net=unet_small", "net.embedding.channels=8", "net.augment=9", *UNET],
    "ncsnpp with augmentation": ["net=ncsnpp", "net.embedding.channels=16", "net.augment=9", *UNET],
    "patches": ["net=unet_patch", "net.embedding.channels=8", "net.patch=2", *UNET],
    "adm": ["net=adm_imagenet64", *UNET, "net.head_channels=8"],
    "ddpm": ["net=ddpm_cifar10", *UNET, "net.groups=4"],
}
CASES = [(net, "ict_digits", True) for net in NETS]
CASES += [
    ("unet with augmentation", experiment, False) for experiment in ("ict_digits", "sct_digits", "edm_digits")
]


@pytest.mark.parametrize(("net", "experiment", "conditional"), CASES)
def test_every_parameter_that_is_trained_has_a_gradient(net, experiment, conditional):
    """Processes that train together would wait for one that has none."""
    words = [f"experiment={experiment}", "start=scratch", *NETS[net], f"data.conditional={conditional}"]
    data, module = build(composed("train", "trainer=cpu", "data.batch_size=8", *words))
    module._trainer = SimpleNamespace(datamodule=data, global_rank=0)
    module.setup("fit")
    x, label = data.data.x[:8], data.data.label
    terms = module.terms(
        data.codec.encode(x), given_label(None if label is None else label[:8]), 5, StepDraws(0, 5)
    )
    terms.loss.mean().backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    assert frozen == (["model.net.conditioning.augment.weight"] if "augmentation" in net else [])


# --- devices -----------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch):
    """machine(gpus, apple): a machine with so many GPUs of NVIDIA, and perhaps one of Apple."""

    def pretend(gpus=0, apple=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)

    return pretend


def section(entry, *words):
    config = composed(entry, *words)
    return config.trainer if entry == "train" else config.fabric


@pytest.mark.parametrize(("entry", "words"), [("train", "trainer=ddp_sim"), ("eval", "fabric=ddp_sim")])
def test_two_processes_on_the_cpu_need_no_gpu(machine, entry, words):
    machine(gpus=1)
    check_hardware(section(entry, words))
    with pytest.raises(UserError, match=r"devices=2 but 1 GPUs are visible"):
        check_hardware(section("train", "trainer=auto", "trainer.devices=2"))


@pytest.mark.parametrize(("entry", "group"), [("train", "trainer"), ("eval", "fabric")])
def test_apples_gpu_is_left_alone(machine, capsys, entry, group):
    machine(apple=True)
    chosen = section(entry, f"{group}=auto")
    check_hardware(chosen)
    assert chosen.accelerator == "cpu"
    assert capsys.readouterr().err.count("float64") == 1
    with pytest.raises(UserError, match=r"accelerator=mps: .* float64"):
        check_hardware(section(entry, f"{group}=auto", f"{group}.accelerator=mps"))


def test_elsewhere_the_choice_is_lightnings(machine, capsys, monkeypatch):
    monkeypatch.setattr(hardware, "cpu_has_bf16", lambda: True)
    for given in ({"gpus": 0}, {"gpus": 1}, {"gpus": 1, "apple": True}):
        machine(**given)
        chosen = section("train", "trainer=auto")
        check_hardware(chosen)
        assert chosen.accelerator == "auto"
    assert capsys.readouterr().err == ""
