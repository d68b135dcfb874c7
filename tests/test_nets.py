"""Networks against their papers, EDM's own code, and the derivatives that consistency models ask of them."""

import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from consistency.errors import UserError
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Denoiser
from consistency.model.precond import EDM
from consistency.nets.adm import ADM
from consistency.nets.ddpm import DDPMUNet
from consistency.nets.layers import (
    Attention,
    FourierEmbedding,
    GroupNorm,
    LayerNorm,
    PositionalEmbedding,
    attend,
)
from consistency.nets.mlp import MLP, LogEmbedding
from consistency.nets.modulation import DoublyNormalised, pixel_norm
from consistency.nets.resampling import Down, PyramidDown, Up
from consistency.nets.unet import UNet
from consistency.tensor import same_dropout
from tests.reference import edm_unet

ddpmpp = UNet


def ncsnpp(shape, scale=16.0, channels=128, **options):
    embedding = FourierEmbedding(2 * channels, scale)
    return UNet(
        shape, channels=channels, embedding=embedding, taps=(1, 3, 3, 1), input_pyramid=True, **options
    )


TINY = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
TINY_ADM = TINY | {"head_channels": 4}
SCM = {"modulation": DoublyNormalised()}
UNETS = {
    "ddpmpp": partial(ddpmpp, (3, 8, 8), **TINY),
    "ncsnpp": partial(ncsnpp, (3, 8, 8), scale=0.2, **TINY),
    "ncsnpp_scm": partial(ncsnpp, (3, 8, 8), scale=0.02, **TINY, **SCM),
}
ADMS = {
    "adm": partial(ADM, (3, 8, 8), **TINY_ADM),
    "adm_added": partial(ADM, (3, 8, 8), **TINY_ADM, scale_shift=False),
    "adm_scm": partial(ADM, (3, 8, 8), **TINY_ADM, **SCM),
}
OTHERS = {
    "mlp": partial(MLP, (1, 8, 8), width=32, blocks=2, fmax=4.0),
    "ddpm": partial(DDPMUNet, (3, 8, 8), **TINY, groups=4),
    "ddpm_heads": partial(DDPMUNet, (3, 8, 8), **TINY, groups=4, head_channels=4, padding=1),
}
NETS = UNETS | ADMS | OTHERS
every_net = pytest.mark.parametrize("make", NETS.values(), ids=NETS)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def alive(net, seed=0):
    """`net` with its nearly zero outputs woken up: otherwise every error would be multiplied by 1e-5."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.15 * torch.randn(p.shape, generator=generator).to(p))
    return net.eval()


def example(net, n=2, dtype=torch.float32, seed=1):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 8, 8) if isinstance(net, MLP) else (3, 8, 8)
    return torch.randn(n, *shape, generator=generator).to(dtype), torch.linspace(-1.5, 1.0, n, dtype=dtype)


def count(net):
    return sum(p.numel() for p in net.parameters())


# Against the papers


@pytest.mark.parametrize(
    ("make", "parameters"),
    [
        (partial(ddpmpp), 55_732_739),
        (partial(ddpmpp, classes=10, augment=9), 55_735_299),
        (partial(ncsnpp), 56_395_523),
        (partial(ncsnpp, blocks=8), 97_610_499),
        (partial(ddpmpp, **SCM), 60_066_563),
    ],
)
def test_parameter_counts(make, parameters):
    with torch.device("meta"):
        assert count(make((3, 32, 32))) == parameters


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, edm_unet.DDPMPP),
        ({"embedding": FourierEmbedding(16), "taps": (1, 3, 3, 1), "input_pyramid": True}, edm_unet.NCSNPP),
    ],
)
def test_the_unet_is_edms(options, expected):
    net = UNet(**edm_unet.SIZE, **options).double().eval()
    edm_unet.fill(net)
    x, noise, label, augment = edm_unet.inputs()
    with torch.no_grad():
        outputs = net(x, noise, Condition(label, augment)), net(x, noise)
    for output, golden in zip(outputs, expected, strict=True):
        assert output[:, :, 2, 3].flatten().tolist() == pytest.approx(golden, abs=2e-6)


def test_positional_embedding():
    noise = torch.tensor([-1.5, 0.3], dtype=torch.float64)
    frequencies = [10000 ** (-i / 3) for i in range(4)]
    expected = [[f(c * w) for f in (math.sin, math.cos) for w in frequencies] for c in noise.tolist()]
    torch.testing.assert_close(PositionalEmbedding(8)(noise), torch.tensor(expected, dtype=torch.float64))


def test_fourier_embedding():
    torch.manual_seed(0)
    embedding = FourierEmbedding(4096, scale=16.0)
    frequencies = embedding.frequencies
    assert frequencies.std().item() == pytest.approx(16, rel=0.1)
    angle = 2 * torch.pi * frequencies * 0.25
    torch.testing.assert_close(embedding(torch.tensor([0.25]))[0], torch.cat([angle.sin(), angle.cos()]))


def test_log_embedding():
    features = LogEmbedding(3, 16.0)(torch.tensor([0.5], dtype=torch.float64))[0].tolist()
    angles = [0.5, 2.0, 8.0]
    assert features == pytest.approx([0.5, *map(math.sin, angles), *map(math.cos, angles)])


# Layers against independent formulas


def filter_matrix(taps, n):
    """M [n/2, n] with y = M x: each output sums the taps over x around it, zero beyond the edges."""
    M = torch.zeros(n // 2, n, dtype=torch.float64)
    for i in range(n // 2):
        for a, tap in enumerate(taps):
            j = 2 * i + a - (len(taps) - 1) // 2
            if 0 <= j < n:
                M[i, j] += tap / sum(taps)
    return M


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_resampling(taps):
    x, y = torch.randn(2, 3, 8, 6, dtype=torch.float64), torch.randn(2, 3, 4, 3, dtype=torch.float64)
    M, W = filter_matrix(taps, 8), filter_matrix(taps, 6)
    torch.testing.assert_close(Down(*taps).double()(x), M @ x @ W.T)
    torch.testing.assert_close(Up(*taps).double()(y), 4 * M.T @ y @ W)


def test_box_is_a_mean_and_a_copy():
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(Down(1, 1)(x), F.avg_pool2d(x, 2))
    torch.testing.assert_close(Up(1, 1)(x), F.interpolate(x, scale_factor=2))


@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_pyramid_filters_what_the_convolution_saw(taps):
    x, layer = torch.randn(2, 3, 8, 8), PyramidDown(3, 5, *taps)
    margin = len(taps) // 2 - 1
    seen = F.conv2d(F.pad(x, [margin + 1] * 4), layer[0].weight)
    kernel = torch.tensor(taps, dtype=torch.float32) / sum(taps)
    windows = seen.unfold(2, len(taps), 2).unfold(3, len(taps), 2)
    torch.testing.assert_close(layer(x), torch.einsum("bchwij,i,j->bchw", windows, kernel, kernel))


NORMS = [
    (lambda: GroupNorm(32, eps=1e-5), lambda: nn.GroupNorm(8, 32), (4, 32, 6, 6)),
    (lambda: GroupNorm(32, groups=4, eps=1e-5), lambda: nn.GroupNorm(4, 32), (4, 32)),
    (lambda: LayerNorm(32), lambda: nn.LayerNorm(32), (4, 32)),
]


@pytest.mark.parametrize(("ours", "native", "shape"), NORMS)
@pytest.mark.parametrize("path", ["forward", "primitive"])
def test_norms_are_the_native_ones(ours, native, shape, path):
    ours, native, x = alive(ours()), alive(native()), 3 + torch.randn(shape)
    assert ours.state_dict().keys() == native.state_dict().keys()
    x1, x2 = x.clone().requires_grad_(), x.clone().requires_grad_()
    y1, y2 = getattr(ours, path)(x1), native(x2)
    torch.testing.assert_close(y1, y2, rtol=1e-6, atol=2e-6)
    direction = torch.randn(shape)
    got = torch.autograd.grad(y1, [x1, *ours.parameters()], direction)
    for a, b in zip(got, torch.autograd.grad(y2, [x2, *native.parameters()], direction), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(2, 1), (8, 2), (32, 8), (128, 32), (256, 32), (144, 24)])
def test_groups(channels, groups):
    assert GroupNorm(channels).num_groups == groups


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_is_a_softmax(heads):
    layer = alive(Attention(8, heads)).double()
    x = torch.randn(2, 8, 3, 4, dtype=torch.float64)
    # EDM's order of channels: head, unit, q k or v.
    per_head = layer.qkv(layer.norm(x)).reshape(2, heads, 8 // heads, 3, 12)
    q, k, v = per_head.unbind(3)
    weights = torch.einsum("bnci,bncj->bnij", q, k).div(math.sqrt(8 // heads)).exp()
    weights = weights / weights.sum(3, keepdim=True)
    expected = layer.proj(torch.einsum("bnij,bncj->bnci", weights, v).reshape(2, 8, 3, 4))
    torch.testing.assert_close(layer(x), expected)


# Modulation


@pytest.mark.parametrize("loudness", [1.0, 1e3])
def test_double_normalisation(loudness):
    """norm(h) s/rms(s) + b/rms(b) (2410.11081, section 4.1), for s = 1 + scale."""
    norm, h, told = GroupNorm(8), torch.randn(3, 8, 4, 4), loudness * torch.randn(3, 16, 1, 1)
    s, b = 1 + told[:, :8], told[:, 8:]
    expected = math.sqrt(8) * (norm(h) * s / s.norm(dim=1, keepdim=True) + b / b.norm(dim=1, keepdim=True))
    torch.testing.assert_close(DoublyNormalised(eps=1e-12)(norm, h, told), expected)


def test_double_normalisation_of_nothing():
    """Told nothing, a block scales by 1 and shifts by 0, and leaves that at a moderate rate: 1/√eps = 100."""
    norm, h = GroupNorm(8), torch.randn(3, 8, 4, 4)
    nothing, change = torch.zeros(3, 16, 1, 1), torch.randn(3, 16, 1, 1)
    y, dy = torch.func.jvp(partial(DoublyNormalised(eps=1e-4), norm, h), (nothing,), (change,))
    torch.testing.assert_close(y, norm(h), rtol=1e-4, atol=1e-4)
    scale, shift = change.chunk(2, 1)
    expected = norm(h) * (scale - scale.mean(1, keepdim=True)) + 100 * shift
    torch.testing.assert_close(dy, expected, rtol=1e-3, atol=1e-3)


def test_pixel_norm_in_half_precision():
    """The square of 300 is no number there, that of 0.0001 is 0."""
    for v in (300.0, 1e-4):
        y = pixel_norm(torch.full((2, 8), v, dtype=torch.float16), eps=1e-12)
        assert y.dtype == torch.float16
        assert y.eq(1).all()


@pytest.mark.parametrize("make", [UNETS["ddpmpp"], ADMS["adm"], ADMS["adm_added"]])
def test_modulation_changes_no_name_and_no_shape_but_of_the_layer_that_tells(make):
    before, after = (make(**options).state_dict() for options in ({}, SCM))
    assert before.keys() == after.keys()
    changed = {name for name, p in before.items() if p.shape != after[name].shape}
    assert changed <= {name for name in before if ".affine." in name}


# Kernels and derivatives


@every_net
def test_kernels_unless_differentiated_forward(make, monkeypatch):
    def primitive(self, x):
        raise AssertionError("slow path")

    monkeypatch.setattr(GroupNorm, "primitive", primitive)
    monkeypatch.setattr(LayerNorm, "primitive", primitive)
    net = make()
    x, noise = example(net)
    net(x, noise).square().sum().backward()
    with pytest.raises(AssertionError, match="slow path"):
        torch.func.jvp(net, (x, noise), (x, noise))


@every_net
def test_both_paths_agree(make):
    net = alive(make())
    x, noise = example(net)
    y, _ = torch.func.jvp(net, (x, noise), (x, noise))
    assert y.std() > 0.1
    torch.testing.assert_close(y, net(x, noise), rtol=1e-6, atol=5e-6)


def test_attention_paths_agree():
    q, k, v = torch.randn(3, 2, 1, 16, 8).unbind()
    y, _ = torch.func.jvp(attend, (q, k, v), (k, v, q))
    torch.testing.assert_close(y, attend(q, k, v), rtol=1e-6, atol=1e-6)


@every_net
def test_jvp_is_the_central_difference(make):
    net = alive(make()).double()
    x, noise = example(net, dtype=torch.float64)
    dx, dnoise, h = torch.randn_like(x), torch.randn_like(noise), 1e-5
    _, tangent = torch.func.jvp(net, (x, noise), (dx, dnoise))
    difference = (net(x + h * dx, noise + h * dnoise) - net(x - h * dx, noise - h * dnoise)) / (2 * h)
    assert tangent.norm() > 0.1
    assert (tangent - difference).norm() < 1e-6 * tangent.norm()


@every_net
def test_jvp_with_dropout_is_that_of_its_masks(make):
    net, device = alive(make(dropout=0.5)).double().train(), torch.device("cpu")
    x, noise = example(net, dtype=torch.float64)
    dx, dnoise, h = torch.randn_like(x), torch.randn_like(noise), 1e-5
    outputs = []
    for step in (h, -h):
        with same_dropout(device):
            outputs.append(net(x + step * dx, noise + step * dnoise))
    y, tangent = torch.func.jvp(net, (x, noise), (dx, dnoise))
    torch.testing.assert_close(y, sum(outputs) / 2, rtol=1e-6, atol=1e-6)
    assert (tangent - (outputs[0] - outputs[1]) / (2 * h)).norm() < 1e-6 * tangent.norm()
    assert not torch.equal(y, net(x, noise))


@every_net
def test_jvp_in_the_weights(make):
    """Layers that spare themselves the tangent of their weights notice when there is one."""
    net = alive(make()).double()
    x, noise = example(net, dtype=torch.float64)
    weights, dx = dict(net.named_parameters()), torch.randn_like(x)
    change, h = {name: torch.randn_like(p) for name, p in weights.items()}, 1e-6

    def moved(step):
        return {name: p + step * change[name] for name, p in weights.items()}

    def f(weights, x):
        return torch.func.functional_call(net, weights, (x, noise))

    for d in (dx, torch.zeros_like(x)):
        tangent = torch.func.jvp(f, (weights, x), (change, d))[1]
        difference = (f(moved(h), x + h * d) - f(moved(-h), x - h * d)) / (2 * h)
        assert (tangent - difference).norm() < 1e-6 * tangent.norm()


@every_net
def test_gradient_of_a_jvp(make):
    """Reverse over forward mode, in every parameter."""
    net = alive(make()).double()
    x, noise = example(net, dtype=torch.float64)
    weights, h = list(net.parameters()), 1e-6
    change = [torch.randn_like(p) for p in weights]

    def loss():
        return torch.func.jvp(net, (x, noise), (x, noise))[1].square().sum()

    gradients = torch.autograd.grad(loss(), weights, allow_unused=True)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, change, strict=True) if g is not None)
    losses = []
    with torch.no_grad():
        for step in (h, -2 * h):
            torch._foreach_add_(weights, change, alpha=step)
            losses.append(loss().item())
    assert slope == pytest.approx((losses[0] - losses[1]) / (2 * h), rel=1e-5)


@every_net
def test_a_tangent_costs_no_more_than_a_value(make):
    """In multiplications of matrices and convolutions, but for attention's few."""
    net = make()
    x, noise = example(net)
    with torch.no_grad(), FlopCounterMode(display=False) as value:
        net(x, noise)
    with torch.no_grad(), FlopCounterMode(display=False) as both:
        torch.func.jvp(net, (x, noise), (x, noise))
    assert both.get_total_flops() < 2.15 * value.get_total_flops()


@every_net
def test_jvp_under_autocast(make):
    net = alive(make())
    x, noise = example(net, n=4)
    _, exact = torch.func.jvp(net, (x, noise), (x, noise))
    with torch.autocast("cpu", torch.bfloat16):
        y, tangent = torch.func.jvp(net, (x, noise), (x, noise))
    assert y.dtype == torch.bfloat16
    assert (tangent - exact).norm() < 0.1 * exact.norm()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ncsnpp", "ncsnpp_scm", "adm", "mlp", "ddpm"])
def test_jvp_compiles_whole(name):
    net = alive(NETS[name]())
    x, noise = example(net)
    jvp = partial(torch.func.jvp, net)
    compiled = torch.compile(
        lambda x, noise: jvp((x, noise), (x, noise)), fullgraph=True, backend="aot_eager"
    )
    for a, b in zip(compiled(x, noise), jvp((x, noise), (x, noise)), strict=True):
        torch.testing.assert_close(a, b)


# Precision


def test_frequencies_are_saved_and_never_rounded():
    net = ncsnpp((3, 8, 8), **TINY)
    exact = net.state_dict()["conditioning.embedding.frequencies"].clone()
    net.to(torch.bfloat16)
    kept = net.conditioning.embedding.frequencies
    assert kept.dtype == torch.float32
    assert torch.equal(kept, exact)
    y = net(torch.randn(2, 3, 8, 8, dtype=torch.bfloat16), torch.tensor([-1.0, 1.0], dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16


@pytest.mark.parametrize("embedding", [PositionalEmbedding(16), FourierEmbedding(16), LogEmbedding(8, 16.0)])
def test_embeddings_never_go_below_float32(embedding):
    noise = torch.linspace(-1.5, 1, 7)
    exact = embedding(noise)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(noise), exact)
    assert embedding(noise.bfloat16()).dtype == torch.float32
    assert embedding(noise.double()).dtype == torch.float64


@pytest.mark.parametrize(("name", "scale"), [("ddpmpp", 0.25), ("adm", 250.0), ("ddpm", -999.0)])
def test_neighbouring_noise_levels_differ_under_autocast(name, scale):
    """bfloat16 would give both levels of a late consistency pair the same embedding."""
    net = alive(NETS[name]())
    told = scale * torch.tensor([0.821, 0.821 * 0.9977]).log(), NONE
    exact = net.conditioning(*told)
    assert not torch.equal(exact[0], exact[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net.conditioning(*told), exact)


# As a part of training


@pytest.mark.parametrize("size", [8, 16, 28, 32])
@pytest.mark.parametrize("make", [ddpmpp, ncsnpp])
def test_any_even_size(make, size):
    net = alive(make((1, size, size), **TINY | {"multipliers": (1, 2, 2), "attention": (size // 2,)}))
    x, noise = torch.randn(2, 1, size, size), torch.tensor([-1.0, 1.0])
    y = net(x, noise)
    assert y.shape == x.shape
    torch.testing.assert_close(net(x[:1], noise[:1]), y[:1], rtol=1e-4, atol=1e-4)  # samples do not mix
    assert sum(block.attention is not None for block in net.encoder.blocks) == 1
    assert [block.attention is not None for block in net.decoder.blocks[:2]] == [True, False]


@pytest.mark.parametrize("shape", [(2,), (1, 8, 8)])
def test_mlp_shapes(shape):
    x = torch.randn(5, *shape)
    assert MLP(shape)(x, torch.zeros(5)).shape == x.shape


def test_mlp_size():
    assert 0.55e6 < count(MLP((1, 8, 8))) < 0.6e6


@pytest.mark.parametrize("name", [name for name in NETS if name not in ADMS])
def test_starts_near_zero(name):
    net = NETS[name]()
    x, noise = example(net)
    for y in torch.func.jvp(net, (x, noise), (x, noise)):
        assert 0 < y.abs().max() < 1e-3


@pytest.mark.parametrize("name", [name for name in NETS if name not in ADMS])
def test_gradient_reaches_every_parameter(name):
    net = NETS[name](classes=3, **({"augment": 9} if name in UNETS else {}))
    x, noise = example(net, n=3)
    c = Condition(torch.arange(3), torch.randn(3, 9) if name in UNETS else None)
    net(x, noise, c).sub(x).square().sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_only_the_pyramid_sees_the_image_past_the_stem():
    for name, sees in {"ddpmpp": False, "ncsnpp": True}.items():
        net = alive(NETS[name]())
        nn.init.zeros_(net.encoder.stem.weight)
        x, noise = example(net)
        assert torch.equal(net(x, noise), net(-x, noise)) is not sees


@every_net
def test_deterministic(make):
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        net = make()
        outputs.append(net(*example(net)))
    assert torch.equal(*outputs)


@every_net
def test_noise_and_class_matter(make):
    net = alive(make(classes=3))
    x, noise = example(net)
    labels = torch.tensor([0, 0]), torch.tensor([0, 1]), torch.tensor([-1, -1])
    y0, y1, none = (net(x, noise, Condition(label)) for label in labels)
    assert torch.equal(none, net(x, noise))
    assert torch.equal(y0[0], y1[0])
    for a, b in [(y0[1], y1[1]), (y0[1], none[1]), (y1[1], none[1]), (none, net(x, noise + 0.5))]:
        assert (a - b).abs().max() > 1e-3


@every_net
def test_dropout_in_training_only(make):
    net = alive(make(dropout=0.5))
    x, noise = example(net)
    assert torch.equal(net(x, noise), net(x, noise))
    net.train()
    assert not torch.equal(net(x, noise), net(x, noise))


# Mistakes a user can mend


@every_net
def test_label_for_an_unconditional_network(make):
    x, sigma = example(make())
    with pytest.raises(UserError, match=r"takes no condition, and label was given: set net\.classes"):
        Denoiser(make(), EDM())(x, sigma, Condition(torch.tensor([0, 1])))


def test_a_modulation_that_may_divide_by_zero():
    with pytest.raises(UserError, match=r"^net\.modulation\.eps=0"):
        DoublyNormalised(eps=0)


def test_augmentation_label_for_a_network_without():
    net = NETS["ddpmpp"]()
    with pytest.raises(UserError, match=r"takes no condition, and augment was given: set net\.augment"):
        Denoiser(net, EDM())(*example(net), Condition(augment=torch.zeros(2, 9)))


@pytest.mark.parametrize("shape", [(1, 28, 28), (1, 12, 30)])
def test_resolution_that_cannot_be_halved(shape):
    with pytest.raises(UserError, match=r"net\.multipliers.*data\.resolution.* 8"):
        UNet(shape, channels=8, multipliers=(1, 1, 1, 1))


def test_the_patch_counts_where_the_resolution_cannot_be_halved():
    with pytest.raises(UserError, match=r"15x15 \(after net\.patch=2\).* a multiple of 4$"):
        UNet((3, 30, 30), channels=8, multipliers=(1, 2), patch=2)
    with pytest.raises(UserError, match=r"net\.patch=2 must divide the 31x31 pixels"):
        UNet((3, 31, 31), channels=8, multipliers=(1, 2), patch=2)


def test_unet_for_points():
    with pytest.raises(UserError, match="net=mlp"):
        UNet((2,))


def test_a_patch_is_the_same_network_on_squares_of_pixels():
    options = {"channels": 16, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    patched, plain = UNet((1, 16, 16), patch=2, **options), UNet((4, 8, 8), **options)
    assert {k: v.shape for k, v in patched.state_dict().items()} == {
        k: v.shape for k, v in plain.state_dict().items()
    }
    plain.load_state_dict(alive(patched).state_dict())
    x, noise = torch.randn(2, 1, 16, 16), torch.randn(2)
    squares = rearrange(x, "b 1 (h i) (w j) -> b (i j) h w", i=2, j=2)
    expected = rearrange(plain(squares, noise), "b (i j) h w -> b 1 (h i) (w j)", i=2, j=2)
    assert torch.equal(patched(x, noise), expected)
    for wrong in (0, 3):
        with pytest.raises(UserError, match=f"net.patch={wrong} must divide the 16x16 pixels"):
            UNet((1, 16, 16), patch=wrong)
