"""Several processes: every network can be trained by them, and on the device that the config means."""

from types import SimpleNamespace

import pytest

from consistency.run import build
from consistency.schedule.draws import StepDraws
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
    terms = module.terms(data.encode(x), None if label is None else label[:8], 5, StepDraws(0, 5))
    terms.loss.mean().backward()
    assert [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None] == []
    frozen = [name for name, p in module.named_parameters() if not p.requires_grad]
    assert frozen == (["denoiser.net.conditioning.augment.weight"] if "augmentation" in net else [])
