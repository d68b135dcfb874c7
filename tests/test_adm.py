"""ADM against its papers, and the derivatives that are asked of it. Its outputs are in test_teachers."""

import math
from functools import partial

import pytest
import torch

from consistency.errors import UserError
from consistency.nets.adm import ADM
from consistency.nets.layers import GroupNorm
from tests.test_nets import alive, count

TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,), "head_channels": 4}
NETS = {
    "scale and shift": partial(ADM, (3, 8, 8), **TINY),
    "added": partial(ADM, (3, 8, 8), **TINY, scale_shift=False),
}
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def example(n=2, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, generator=generator).to(dtype), torch.linspace(-1.5, 1.0, n, dtype=dtype)


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
    found = NETS["added"]().conditioning.embedding(noise)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@every_net
def test_kernels_unless_differentiated_forward(make, monkeypatch):
    def primitive(self, x):
        raise AssertionError("slow path")

    monkeypatch.setattr(GroupNorm, "primitive", primitive)
    net, (x, noise) = make(), example()
    net(x, noise).square().sum().backward()
    with pytest.raises(AssertionError, match="slow path"):
        torch.func.jvp(net, (x, noise), (x, noise))


@every_net
def test_both_paths_agree(make):
    net, (x, noise) = alive(make()), example()
    y, _ = torch.func.jvp(net, (x, noise), (x, noise))
    assert y.std() > 0.1
    torch.testing.assert_close(y, net(x, noise), rtol=1e-6, atol=5e-6)


@every_net
def test_jvp_is_the_central_difference(make):
    net, (x, noise) = alive(make()).double(), example(dtype=torch.float64)
    dx, dnoise, h = torch.randn_like(x), torch.randn_like(noise), 1e-5
    _, tangent = torch.func.jvp(net, (x, noise), (dx, dnoise))
    difference = (net(x + h * dx, noise + h * dnoise) - net(x - h * dx, noise - h * dnoise)) / (2 * h)
    assert tangent.norm() > 0.1
    assert (tangent - difference).norm() < 1e-6 * tangent.norm()


@every_net
def test_gradient_of_a_jvp(make):
    net, (x, noise) = alive(make()).double(), example(dtype=torch.float64)
    p, h = net.stem.weight, 1e-5
    delta = torch.randn_like(p)

    def loss():
        return torch.func.jvp(net, (x, noise), (x, noise))[1].square().sum()

    slope = (torch.autograd.grad(loss(), p)[0] * delta).sum()
    with torch.no_grad():
        above, below = [(p.add_(step * delta), loss())[1] for step in (h, -2 * h)]
    assert slope.item() == pytest.approx(((above - below) / (2 * h)).item(), rel=1e-5)


@every_net
def test_jvp_under_autocast(make):
    net, (x, noise) = alive(make()), example(4)
    _, exact = torch.func.jvp(net, (x, noise), (x, noise))
    with torch.autocast("cpu", torch.bfloat16):
        y, tangent = torch.func.jvp(net, (x, noise), (x, noise))
    assert y.dtype == torch.bfloat16
    assert (tangent - exact).norm() < 0.1 * exact.norm()


@pytest.mark.slow
@every_net
def test_jvp_compiles_whole(make):
    net, (x, noise) = alive(make()), example()
    jvp = partial(torch.func.jvp, net)
    compiled = torch.compile(
        lambda x, noise: jvp((x, noise), (x, noise)), fullgraph=True, backend="aot_eager"
    )
    for a, b in zip(compiled(x, noise), jvp((x, noise), (x, noise)), strict=True):
        torch.testing.assert_close(a, b)


def test_neighbouring_noise_levels_differ_under_autocast():
    net = alive(NETS["added"]())
    t = 250 * torch.tensor([0.821, 0.821 * 0.9977]).log()
    exact = net.conditioning(t, None)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.conditioning(t, None), exact)


@every_net
def test_starts_as_nothing(make):
    """The output layer is zero, and so is all that a block or its attention adds."""
    net, (x, noise) = make(), example()
    assert torch.equal(net(x, noise), torch.zeros_like(x))
    block, h = net.encoder[0], torch.randn(2, 8, 8, 8)
    assert torch.equal(block(h, torch.randn(2, 32)), h)


def test_initial_weights_are_uniform_within_one_over_the_root_of_the_inputs():
    net = ADM((3, 8, 8), **TINY | {"channels": 32}, classes=10)
    layers = [net.stem, net.conditioning.layer0, net.encoder[0].conv0, net.encoder[2].attention.qkv]
    for layer in layers:
        bound = layer.weight[0].numel() ** -0.5
        for p in (layer.weight, layer.bias):
            assert 0.8 * bound < p.abs().max() <= bound
    assert net.conditioning.label.weight.std().item() == pytest.approx(1, abs=0.1)


def test_attention_where_it_belongs():
    """In every block at its resolutions, in the middle, and never where sizes change."""
    net = ADM((3, 16, 16), **TINY | {"multipliers": (1, 2, 2), "attention": (8,)})
    assert [b.attention is not None for b in net.encoder] == [False, False, True, False, False]
    assert [b.attention is not None for b in net.decoder] == [
        *(True, False, False, False),
        *(False, True, True),
        *(False, False, False),
    ]
    assert {b.attention.heads for b in net.decoder if b.attention} == {4}


def test_gradient_reaches_every_parameter():
    net, (x, noise) = alive(ADM((3, 8, 8), classes=3, **TINY)), example(3)
    net(x, noise, torch.tensor([0, 1, 2])).sub(x).square().sum().backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("size", [4, 6, 8])
def test_samples_do_not_mix(size):
    net = alive(ADM((1, size, size), **TINY))
    x, noise = torch.randn(2, 1, size, size), torch.tensor([-1.0, 1.0])
    torch.testing.assert_close(net(x[:1], noise[:1]), net(x, noise)[:1], rtol=1e-4, atol=1e-4)


@every_net
def test_noise_and_class_matter(make):
    net, (x, noise) = alive(make(classes=3)), example()
    y0, y1, none = (net(x, noise, label) for label in (torch.tensor([0, 0]), torch.tensor([0, 1]), None))
    assert torch.equal(y0[0], y1[0])
    for a, b in [(y0[1], y1[1]), (y0[1], none[1]), (y1[1], none[1]), (none, net(x, noise + 0.5))]:
        assert (a - b).abs().max() > 1e-3


def test_dropout_in_training_only():
    net, (x, noise) = alive(NETS["added"](dropout=0.5)), example()
    assert torch.equal(net(x, noise), net(x, noise))
    net.train()
    assert not torch.equal(net(x, noise), net(x, noise))


@every_net
def test_label_for_an_unconditional_network(make):
    with pytest.raises(UserError, match=r"^net\.classes is 0"):
        make()(*example(), torch.tensor([0, 1]))


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
        ADM(shape, **TINY | options)


def test_parameters_are_named_for_good():
    """Checkpoints hold these names."""
    names = {name.rsplit(".", 1)[0] for name in NETS["added"](classes=2).state_dict()}
    assert {"stem", "conditioning.layer1", "conditioning.label", "encoder.2.attention.qkv", "head.2"} <= names
