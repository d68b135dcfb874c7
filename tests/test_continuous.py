"""Continuous time: tangents, derivatives, and what fine grids tend to, against formulas and a Gaussian."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.model.condition import NONE
from consistency.model.coordinates import Linear, Trigonometric
from consistency.model.maps import Denoiser
from consistency.model.precond import EDM, Boundary, Velocity
from consistency.objectives.balance import Learned, Unbalanced
from consistency.objectives.bound import Clipped, Normalised, Unbounded
from consistency.objectives.continuous import Continuous
from consistency.objectives.derivative import CentralDifferences, ForwardMode
from consistency.objectives.discrete import Discrete
from consistency.objectives.distance import SquaredL2
from consistency.objectives.flow import DataFlow, TeacherFlow
from consistency.objectives.limit import PseudoObjective, SlopeNorm
from consistency.objectives.target import EMATarget, StopGradient
from consistency.objectives.weighting import InverseGap, Uniform
from consistency.schedule.decay import Constant as ConstantDecay
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import LogNormal
from consistency.tensor import Terms, expand
from consistency.truth.flow import ExactFlow
from consistency.truth.oracle import Mixture
from tests.reference.trigflow import tangent

S = 0.5  # σ_data
TRIG = Velocity(Trigonometric(S))
PRECONDS = {"edm": EDM(S), "trigflow": TRIG, "linear": Velocity(Linear()), "boundary": Boundary(S)}


class Wavy(nn.Module):
    """A smooth network of x [B, 2] and c_noise [B], with all of its parameters at random."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(3, 16), nn.Linear(16, 2), nn.Dropout(dropout)

    def forward(self, x, noise, c=NONE):
        hidden = torch.tanh(self.first(torch.cat([x, noise[:, None].to(x.dtype)], 1)))
        return self.last(self.dropout(hidden))


class Exact(nn.Module):
    """The network whose f is exact for N(0, v²), times a parameter whose right value is 1."""

    def __init__(self, v, precond):
        super().__init__()
        self.v, self.precond, self.scale = v, precond, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, noise, c=NONE):
        """F from c_noise = t: f = x_σ v/√(v² + σ²) = c_skip x_σ + c_out F."""
        sigma = S * noise.double().tan()
        c = self.precond(sigma)
        F = (self.v / (self.v**2 + sigma**2).sqrt() - c.skip) / (c.out * c.inp)
        return self.scale * expand(F, x) * x


def continuous(derivative=None, bound=None, balance=None, warmup=0, noise=None):
    parts = derivative or ForwardMode(), bound or Unbounded(), balance or Unbalanced()
    return Continuous(noise or LogNormal(-0.5, 1.4), *parts, Uniform(), warmup=warmup)


def wavy(precond, seed=0, **options):
    torch.manual_seed(seed)
    return Denoiser(Wavy(**options).double(), precond)


def points(n=64, seed=0):
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# The tangent


@pytest.mark.parametrize("v", [0.5, 1.3])
@pytest.mark.parametrize("objective", ["continuous", "slope_norm", "pseudo"])
def test_at_the_exact_function_of_a_gaussian_tangent_and_gradient_vanish(v, objective):
    noise = LogNormal(-0.5, 1.4)
    objective = {
        "continuous": continuous(),
        "slope_norm": SlopeNorm(noise, ForwardMode(), Uniform(), 0.0),
        "pseudo": PseudoObjective(noise, ForwardMode(), Uniform(), 0.0),
    }[objective]
    f, flow = Denoiser(Exact(v, TRIG), TRIG), ExactFlow(Mixture.gaussian(v))
    terms = objective(f, StopGradient(f), flow, v * points(256), NONE, 0, StepDraws(0))
    assert terms.loss.abs().max() < 1e-10
    if objective.__class__ is not SlopeNorm:  # a norm has no gradient where it is 0
        terms.loss.mean().backward()
        assert abs(f.net.scale.grad.item()) < 1e-10
    with torch.no_grad():
        f.net.scale.mul_(1.1)  # and elsewhere they do not
    terms = objective(f, StopGradient(f), flow, v * points(256), NONE, 0, StepDraws(0))
    f.net.scale.grad = None
    terms.loss.mean().backward()
    assert abs(f.net.scale.grad.item()) > 1e-3


def test_the_exact_network_of_the_golden_gaussian():
    t = torch.tensor([0.8, 1.5645464], dtype=torch.float64)
    F = Exact(S, TRIG)(torch.ones(2, 2, dtype=torch.float64), t)
    assert F[:, 0].tolist() == pytest.approx([-0.42279322, -0.99376952], abs=2e-8)


@pytest.mark.parametrize("r", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("distil", [False, True])
def test_the_tangent_is_the_rearranged_one_of_the_paper(r, distil):
    """With the paper's own coordinate, and with EDM's, whose network says the opposite of TrigFlow's."""
    density, x0, z = Mixture.ring(std=0.2), points(seed=1) / 2, points(seed=2)
    t = torch.linspace(0.01, 1.565, len(x0), dtype=torch.float64)
    sigma = S * t.tan()
    flow = ExactFlow(density) if distil else DataFlow()

    def velocity(x, t):
        """dx/dt of cos t x0 + sin t s z, or with the posterior mean for x0."""
        column = t[:, None]
        D = density.denoise(x / column.cos(), S * t.tan())
        return (column.cos() * x - D) / column.sin() if distil else column.cos() * S * z - column.sin() * x0

    x_t = x0 + sigma[:, None] * z
    v = flow.velocity(x_t, sigma, x0, z, NONE)
    for precond, sign in ((TRIG, 1), (EDM(S), -1)):
        f = wavy(precond)

        def F(x, t, f=f, precond=precond, sign=sign):
            return sign * f.net(x, precond(S * t.tan()).noise)

        ours = -S * continuous().change(f, x_t, sigma, v, NONE, r) / precond(sigma).out[:, None]
        torch.testing.assert_close(sign * ours, tangent(F, x0, S * z, t, r, velocity), rtol=1e-9, atol=1e-10)


def test_without_a_warm_up_the_first_step_is_diffusions():
    """At r = 0 the network is moved towards the velocity that the flow gives, as a teacher is."""
    f, x, z, sigma = wavy(TRIG), points(seed=1), points(seed=2), torch.full((64,), 0.7, dtype=torch.float64)
    x_t = x + 0.7 * z
    change = continuous().change(f, x_t, sigma, z, NONE, 0.0)
    torch.testing.assert_close(change, 0.25 / (0.25 + 0.49) * (f(x_t, sigma) - x))


def test_the_warm_up_is_linear_and_ends():
    objective = continuous(warmup=10_000)
    assert [objective.progress(k)["r"] for k in (0, 2500, 10_000, 20_000)] == [0, 0.25, 1, 1]
    assert continuous(warmup=0).progress(0) == {"r": 1.0}
    with pytest.raises(UserError, match="warmup=-1"):
        continuous(warmup=-1)


@pytest.mark.parametrize("sigma", [1e-3, 0.5, 80.0, 800.0])
def test_float32_keeps_the_tangent_at_both_ends(sigma):
    """Trap 9: what is large and cancels is computed in float64, or not at all."""
    x0, z = points(seed=1) / 2, points(seed=2)
    level = torch.full((64,), sigma, dtype=torch.float64)
    for precond in (EDM(S), TRIG):
        f = wavy(precond)
        exact = continuous().change(f, x0 + sigma * z, level, z, NONE, 1.0)
        single = continuous().change(f.float(), (x0 + sigma * z).float(), level, z.float(), NONE, 1.0)
        assert ((single - exact).norm() / exact.norm()).item() < 5e-5


# Derivatives


@pytest.mark.parametrize("precond", PRECONDS.values(), ids=PRECONDS)
def test_the_derivative_agrees_with_central_differences(precond):
    f, x, v = wavy(precond), points(seed=1), points(seed=2)
    sigma = torch.logspace(-2, 2, 64, dtype=torch.float64)
    dx = sigma[:, None] * v
    y, dy = ForwardMode()(f, x, sigma, NONE, dx, sigma)
    y_differences, dy_differences = CentralDifferences(h=1e-4)(f, x, sigma, NONE, dx, sigma)
    assert (y - f(x, sigma)).abs().max() == 0
    torch.testing.assert_close(dy_differences, dy, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(y_differences, y, rtol=1e-6, atol=1e-6)


def relative_error(f, h, autocast=False):
    x, v = points(seed=1).float(), points(seed=2).float()
    sigma = torch.logspace(-1, 1, 64, dtype=torch.float64)
    exact = ForwardMode()(f.double(), x.double(), sigma, NONE, sigma[:, None] * v, sigma)[1]
    f.float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        ahead, behind = (
            f(x + h * (sigma[:, None] * v).float() * side, sigma * (1 + side * h)) for side in (1, -1)
        )
    return (((ahead - behind) / (2 * h) - exact).norm() / exact.norm()).item()


def test_the_error_of_differences_in_each_precision():
    """Float32 leaves less than 1e-4; bfloat16 a hundred times more with but two layers in it."""
    f, h = wavy(EDM(S)), CentralDifferences().h
    assert relative_error(f, h) < 2e-4
    assert relative_error(f, 1e-5) > 10 * relative_error(f, h)  # rounding
    assert relative_error(f, 0.1) > 10 * relative_error(f, h)  # curvature
    assert relative_error(f, h, autocast=True) > 100 * relative_error(f, h)
    assert min(relative_error(f, h, autocast=True) for h in (0.3, 0.1, 0.03, 1e-3)) > 5e-3  # at no h better


def test_differences_in_half_precision_are_refused():
    f, x, sigma = wavy(EDM(S)).float(), points().float(), torch.ones(64, dtype=torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(UserError, match=r"derivative\.float32=true"):
            CentralDifferences(float32=False)(f, x, sigma, NONE, x, sigma)
        inside = CentralDifferences()(f, x, sigma, NONE, x, sigma)
    with pytest.raises(UserError, match="half precision"):
        CentralDifferences()(f.bfloat16(), x, sigma, NONE, x, sigma)
    outside = CentralDifferences()(f.float(), x, sigma, NONE, x, sigma)
    f = wavy(EDM(S)).float()
    assert torch.equal(inside[1], CentralDifferences()(f, x, sigma, NONE, x, sigma)[1])
    assert outside[1].shape == inside[1].shape
    with pytest.raises(UserError, match=r"derivative\.h=0"):
        CentralDifferences(h=0)


def test_the_derivative_in_float32_is_not_the_one_under_autocast():
    f, x, sigma = wavy(EDM(S)).float(), points().float(), torch.ones(64, dtype=torch.float64)
    exact = ForwardMode()(f, x, sigma, NONE, x, sigma)[1]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ForwardMode(float32=True)(f, x, sigma, NONE, x, sigma)[1], exact)
        rounded = ForwardMode()(f, x, sigma, NONE, x, sigma)[1]
    assert 1e-4 < ((rounded - exact).norm() / exact.norm()).item() < 0.1


@pytest.mark.parametrize("derivative", [ForwardMode(), CentralDifferences()])
def test_derivative_and_loss_see_the_same_dropout_masks(derivative):
    seen = []

    class Spy(Wavy):
        def forward(self, x, noise, c=NONE):
            out = super().forward(torch.zeros_like(x) + 0.1, torch.zeros_like(noise))  # a function of masks
            seen.append(out.detach().clone())
            return out

    torch.manual_seed(0)
    f = Denoiser(Spy(dropout=0.5).double(), EDM(S)).train()
    objective = continuous(derivative)
    for k in range(2):
        objective(f, StopGradient(f), DataFlow(), points(), NONE, k, StepDraws(0, k))
    per_step = len(seen) // 2
    assert all(torch.equal(out, seen[0]) for out in seen[:per_step])
    assert not torch.equal(seen[0], seen[-1])


# What the gradient is


def test_only_the_gradient_of_the_networks_output_remains():
    """-2 mean <dF, g>: nothing flows through the tangent (trap 7), whose mean square is the loss."""
    f, objective = wavy(TRIG), continuous()
    terms = objective(f, StopGradient(f), DataFlow(), points(), NONE, 0, StepDraws(0))
    gradient = torch.autograd.grad(terms.loss.sum(), f.net.last.weight)[0]

    draws = StepDraws(0)
    sigma, z = objective.noise.sample(64, draws, torch.device("cpu")), draws.normal(points())
    x_t = points() + sigma[:, None] * z
    change = objective.change(f, x_t, sigma, z, NONE, 1.0).detach()
    c = TRIG(sigma)
    g = -S * change / c.out[:, None]
    F = f.net(c.inp[:, None] * x_t, c.noise)
    expected = torch.autograd.grad(-2 * (F * g).mean(1).sum(), f.net.last.weight)[0]
    torch.testing.assert_close(gradient, expected)
    torch.testing.assert_close(terms.loss, g.square().mean(1))


def test_training_follows_distillation_on_average():
    """The gradient is linear in the velocity: averaged over z given x_t, training's is distillation's."""
    f, objective, sigma = wavy(TRIG), continuous(), torch.full((64,), 1.3, dtype=torch.float64)
    x_t, spread = points(seed=1), points(seed=2)
    exact = ExactFlow(Mixture.gaussian(S)).velocity(x_t, sigma, x_t, x_t, NONE)
    change = [objective.change(f, x_t, sigma, exact + side * spread, NONE, 1.0) for side in (1, -1, 0)]
    torch.testing.assert_close((change[0] + change[1]) / 2, change[2])


@pytest.mark.parametrize(("bound", "largest"), [(Normalised(), 1.0), (Clipped(), math.sqrt(2.0))])
def test_bounds_shorten_what_is_long_and_keep_what_is_short(bound, largest):
    long, short = 1e4 * points(), 1e-3 * points()
    assert bound(long).norm(dim=1).max() <= largest
    assert bound(long).norm(dim=1).min() > 0.9
    kept = bound(short) / short
    torch.testing.assert_close(kept, kept[:1, :1].expand_as(kept), rtol=0.05, atol=0)
    assert torch.equal(Unbounded()(long), long)


def test_the_norm_of_a_tangent_is_that_of_the_whole_sample():
    g = torch.ones(2, 3, 4, 4)
    assert Normalised(0.1)(g).flatten(1).norm(dim=1).tolist() == pytest.approx([1 / (1 + 0.1 / 48**0.5)] * 2)
    for bad in (lambda: Normalised(0.0), lambda: Clipped(-1.0)):
        with pytest.raises(UserError, match="bound"):
            bad()


def test_a_learned_balance_ends_where_every_level_weighs_the_same():
    torch.manual_seed(0)
    balance, sigma = Learned(64), torch.logspace(-2, 2, 256, dtype=torch.float64)
    assert balance(sigma).abs().max() == 0
    d = 3 * sigma**0.5
    optimizer = torch.optim.Adam(balance.parameters(), lr=1e-2)
    for _ in range(2000):
        w = balance(sigma)
        optimizer.zero_grad()
        (w.exp() * d - w).mean().backward()
        optimizer.step()
    weighed = (balance(sigma).exp() * d).detach()
    assert weighed.min() > 0.7
    assert weighed.max() < 1.4


def test_a_learned_balance_learns_with_the_network():
    f, objective = wavy(TRIG), continuous(balance=Learned())
    terms = objective(f, StopGradient(f), DataFlow(), points(), NONE, 0, StepDraws(0))
    terms.loss.mean().backward()
    assert objective.balance.linear.weight.grad.abs().max() > 0
    assert "balance.linear.weight" in objective.state_dict()


# What fine grids tend to, on a Gaussian


@dataclass(frozen=True)
class Pair:
    """Two neighbours, an N-th of t apart."""

    t: float
    N: int
    sigma_min: float = 0.0

    def __call__(self, n, k, draws, device):
        t = torch.full((n,), self.t, dtype=torch.float64)
        return t, t * (1 - 1 / self.N)


class FourPoints:
    """Noise that has the second moments of a normal law together with the four points below."""

    def normal(self, x):
        return torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)

    def uniform(self, n, device):
        return torch.full((n,), 0.5, dtype=torch.float64)


class Linearly(nn.Module):
    """F linear in x: expected gradients need second moments only."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(-0.3, dtype=torch.float64))

    def forward(self, x, noise, c=NONE):
        return self.a * noise.cos()[:, None] * x


V = 1.3
FOUR = V * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)


def gradient(objective, flow, target=StopGradient):
    """Of the expected loss by the network's parameter."""
    f = Denoiser(Linearly(), TRIG)
    chosen = target(f)
    terms: Terms = objective(f, chosen, flow, FOUR, NONE, 0, FourPoints())
    return torch.autograd.grad(terms.loss.mean(), f.net.a)[0].item()


def pairwise(flow, N, target=StopGradient, t=1.0):
    return gradient(Discrete(Pair(t, N), SquaredL2(), InverseGap()), flow, target)


def lagging(f):
    """A moving average that trails the parameter by a tenth of it."""
    target = EMATarget(f, ConstantDecay(0.9))
    with torch.no_grad():
        target.shadow.net.a.mul_(0.9)
    return target


EXACT = ExactFlow(Mixture.gaussian(V, (1,)))


def test_the_gradient_of_training_tends_to_that_of_distillation():
    """2303.01469, theorem 2: the difference falls as 1/N."""
    gap = [abs(pairwise(DataFlow(), N) - pairwise(EXACT, N)) for N in (100, 1000, 10_000)]
    assert gap[0] / gap[1] == pytest.approx(10, rel=0.1)
    assert gap[1] / gap[2] == pytest.approx(10, rel=0.01)
    assert gap[2] < 1e-4 * abs(pairwise(EXACT, 10_000))


def test_with_a_moving_target_it_does_not():
    """2310.14189, section 3.2: the gap between θ and θ⁻ is divided by a step that vanishes."""
    limit = pairwise(EXACT, 100_000)
    off = [abs(pairwise(DataFlow(), N, lagging) - limit) for N in (100, 1000, 10_000)]
    assert off[1] / off[0] == pytest.approx(10, rel=0.2)
    assert off[2] / off[1] == pytest.approx(10, rel=0.1)
    assert off[2] > 100 * abs(limit)


@pytest.mark.parametrize("flow", [DataFlow(), EXACT], ids=["training", "distillation"])
def test_the_limit_is_the_pseudo_objective(flow):
    @dataclass(frozen=True)
    class One:
        def sample(self, n, draws, device):
            return torch.ones(n, dtype=torch.float64)

    limit = gradient(PseudoObjective(One(), ForwardMode(), Uniform(), 0.0), flow)
    gap = [abs(pairwise(flow, N) - limit) for N in (100, 1000)]
    assert gap[0] / gap[1] == pytest.approx(10, rel=0.05)
    assert gap[1] < 2e-3 * abs(limit)


def test_the_gradient_through_the_derivative_is_that_of_the_norm():
    noise, h = LogNormal(-0.5, 1.0), 1e-6
    objective, f = SlopeNorm(noise, ForwardMode(), Uniform(), 0.0), wavy(TRIG)
    flow = TeacherFlow(Mixture.ring())

    def loss():
        return objective(f, StopGradient(f), flow, points(), NONE, 0, StepDraws(0)).loss.mean()

    weight = f.net.first.weight
    slope = torch.autograd.grad(loss(), weight)[0][0, 2].item()
    with torch.no_grad():
        weight[0, 2] += h
        ahead = loss()
        weight[0, 2] -= 2 * h
        behind = loss()
    assert slope == pytest.approx(((ahead - behind) / (2 * h)).item(), rel=1e-5)


def test_a_compiled_network_is_differentiated_eagerly_and_stays_compiled():
    calls = []

    def backend(graph, inputs):
        calls.append(0)
        return graph.forward

    f = wavy(EDM(S)).requires_grad_(False)
    x, sigma = points(), torch.ones(64, dtype=torch.float64)
    exact = ForwardMode()(f, x, sigma, NONE, x, sigma)
    f.net.compile(backend=backend)
    with torch.no_grad():
        for found, expected in zip(ForwardMode()(f, x, sigma, NONE, x, sigma), exact, strict=True):
            assert torch.equal(found, expected)
        assert not calls
        f(x, sigma)
    assert calls
    torch._dynamo.reset()
