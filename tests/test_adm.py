"""ADM against its papers. Its derivatives are in test_nets, its outputs in test_teachers."""

import math
from functools import partial

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.nets.adm import ADM
from tests.test_nets import ADMS, TINY_ADM, alive, count, example

every_adm = pytest.mark.parametrize("make", ADMS.values(), ids=ADMS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (partial(ADM, (3, 64, 64), classes=1000), 295_899_267),
        (partial(ADM, (3, 256, 256), 0, 256, (1, 1, 2, 2, 4, 4), 2, scale_shift=False), 526_304_771),
    ],
)
def test_parameter_counts(make, parameters):
    with torch.device("meta"):
        assert count(make()) == parameters


def test_the_embedding():
    """Cosines first, frequencies 10000^(-i/half), the same for EDM and for OpenAI."""
    noise = torch.tensor([-1.5, 250.3], dtype=torch.float64)
    frequencies = [10000 ** (-i / 4) for i in range(4)]
    expected = [[f(c * w) for f in (math.cos, math.sin) for w in frequencies] for c in noise.tolist()]
    found = ADMS["adm_added"]().conditioning.embedding(noise)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@every_adm
def test_starts_as_nothing(make):
    """The output layer is zero, and so is all that a block or its attention adds."""
    net = make()
    x, noise = example(net)
    assert torch.equal(net(x, noise), torch.zeros_like(x))
    block, h = net.encoder[0], torch.randn(2, 8, 8, 8)
    assert torch.equal(block(h, torch.randn(2, 32)), h)


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    net = ADM((3, 8, 8), **TINY_ADM | {"channels": 32}, classes=10)
    layers = [net.stem, net.conditioning.layer0, net.encoder[0].conv0, net.encoder[2].attention.qkv]
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        for p in (layer.weight, layer.bias):
            assert 0.8 * bound < p.abs().max() <= bound
    assert net.conditioning.label.weight.std().item() == pytest.approx(1, abs=0.1)


def test_attention_where_it_belongs():
    """In every block at its resolutions, in the middle, and never where sizes change."""
    net = ADM((3, 16, 16), **TINY_ADM | {"multipliers": (1, 2, 2), "attention": (8,)})
    assert [b.attention is not None for b in net.encoder] == [False, False, True, False, False]
    assert [b.attention is not None for b in net.decoder] == [
        *(True, False, False, False),
        *(False, True, True),
        *(False, False, False),
    ]
    assert {b.attention.heads for b in net.decoder if b.attention} == {4}


@every_adm
def test_gradient_reaches_every_parameter(make):
    net = alive(make(classes=3))
    x, noise = example(net, n=3)
    net(x, noise, Condition(torch.tensor([0, 1, 2]))).sub(x).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("size", [4, 6, 8])
def test_samples_do_not_mix(size):
    net = alive(ADM((1, size, size), **TINY_ADM))
    x, noise = torch.randn(2, 1, size, size), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(net(x[:1], noise[:1]), net(x, noise)[:1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((1, 7, 8), {}, r"net\.multipliers.*data\.resolution"),
        ((2,), {}, "net=mlp"),
        ((3, 8, 8), {"head_channels": 3}, r"net\.head_channels=3 does not divide 16"),
    ],
)
def test_what_a_user_can_mend(shape, options, message):
    with pytest.raises(UserError, match=message):
        ADM(shape, **TINY_ADM | options)


def test_parameters_are_named_for_good():
    """Checkpoints hold these names."""
    names = {name.rsplit(".", 1)[0] for name in ADMS["adm_added"](classes=2).state_dict()}
    assert {"stem", "conditioning.layer1", "conditioning.label", "encoder.2.attention.qkv", "head.2"} <= names
