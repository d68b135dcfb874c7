"""Flow maps: each form of the objective vanishes at the exact map, and equals that of its paper."""

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.model import solvers
from consistency.model.condition import NONE
from consistency.model.coordinates import Linear, Trigonometric
from consistency.model.maps import FlowMap
from consistency.model.precond import EDM, Velocity
from consistency.objectives.balance import Learned, Unbalanced
from consistency.objectives.bound import Unbounded
from consistency.objectives.continuous import Continuous
from consistency.objectives.denoising import Denoising
from consistency.objectives.derivative import CentralDifferences, ForwardMode
from consistency.objectives.discrete_map import DiscreteMap
from consistency.objectives.distance import SquaredL2
from consistency.objectives.endpoint import Endpoint
from consistency.objectives.eulerian import Eulerian
from consistency.objectives.flow import DataFlow, TeacherFlow
from consistency.objectives.handover import Handover
from consistency.objectives.lagrangian import Lagrangian
from consistency.objectives.power import Adaptive, AdaptiveSum, Squared
from consistency.objectives.semigroup import Semigroup
from consistency.objectives.tangent import FlowTangent, SelfTangent
from consistency.objectives.target import StopGradient
from consistency.objectives.two_time import FromT, Points, UntilS, mean_square
from consistency.objectives.units import MeanVelocity, NetworkOutput
from consistency.objectives.weighting import Uniform, UnitOutput
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import LogNormal
from consistency.schedule.two_times import (
    ClampedTimes,
    ExponentialGap,
    FixedGap,
    SigmoidGap,
    SortedTimes,
    UniformGap,
    spread_evenly,
)
from consistency.tensor import expand, perturb
from consistency.truth.flow import ExactFlow
from consistency.truth.oracle import Mixture

S = 0.5  # σ_data
LINEAR = Velocity(Linear())
FORMS = ("eulerian", "lagrangian", "semigroup", "discrete")


def levels(t, h):
    """s of the second input of a network, h = atan(s/σ_data)/atan(t/σ_data)."""
    return S * (h * (t / S).atan()).tan()


class Exact(nn.Module):
    """F whose f is exact for N(0, v²), times a parameter whose right value is 1; c_noise = t/(1 + t)."""

    times = 2

    def __init__(self, v):
        super().__init__()
        self.v, self.scale = v, nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, x, noise, c, h):
        """X_{t→s} = x √((v² + s²)/(v² + t²)) and f = (t X - s x)/(t - s), which is D at s = t."""
        t = noise / (1 - noise)
        s = levels(t, h)
        v2, ratio = self.v**2, ((self.v**2 + s**2) / (self.v**2 + t**2)).sqrt()
        near = (t - s) < (1e-9 if t.dtype == torch.float64 else 1e-4) * t
        f = torch.where(near, v2 / (v2 + t**2), (t * ratio - s) / torch.where(near, 1.0, t - s))
        k = LINEAR(t)
        return self.scale * expand((f - k.skip) / (k.out * k.inp), x) * x


class Wavy(nn.Module):
    """A smooth network of x [B, 2], c_noise and h, with all of its parameters at random."""

    times = 2

    def __init__(self, dropout=0.0):
        super().__init__()
        self.first, self.last, self.dropout = nn.Linear(4, 16), nn.Linear(16, 2), nn.Dropout(dropout)

    def forward(self, x, noise, c, h):
        extra = torch.stack([noise, h], 1).to(x.dtype)
        return self.last(self.dropout(torch.tanh(self.first(torch.cat([x, extra], 1)))))


def wavy(precond=LINEAR, seed=0):
    torch.manual_seed(seed)
    return FlowMap(Wavy().double(), precond, diagonal=True, sigma_data=S)


def exact_map(v=0.7):
    return FlowMap(Exact(v), LINEAR, diagonal=True, sigma_data=S)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def uniform(n, seed=0):
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def points(n=100, v=0.7, seed=0, s=None):
    """n points of N(0, v²) in the plane, at random levels t and s below it."""
    t = (gaussian(n, seed=seed + 1) * 1.4).exp()
    s = t * uniform(n, seed + 2) if s is None else torch.full_like(t, s)
    x, z = v * gaussian(n, 2, seed=seed + 3), gaussian(n, 2, seed=seed + 4)
    return Points(x, z, perturb(x, z, t), t, s, NONE)


def objective(form, *, diagonal=0.0, tangent=None, gap=None, units=None, power=None, derivative=None, **more):
    law = LogNormal(-0.4, 1.4)
    times = SortedTimes(law, law, diagonal)
    parts = (times, units or MeanVelocity(), power or Squared(), Unbalanced(), tangent or FlowTangent())
    derivative = derivative or ForwardMode()
    if form == "eulerian":
        return Eulerian(derivative, Unbounded(), *parts)
    if form == "lagrangian":
        return Lagrangian(derivative, *parts)
    return {"semigroup": Semigroup, "discrete": DiscreteMap}[form](
        gap or UniformGap(), Linear(), *parts, **more
    )


def errors(which, f, flow, p, tangent=None):
    below = (tangent or FlowTangent()).of(f, flow)
    return which.errors(f, f, flow, below, p, 0, StepDraws(0)).value


# Every form vanishes at the exact map


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tangent", [FlowTangent(), SelfTangent()], ids=["flow", "self"])
def test_errors_vanish_at_the_exact_map(form, tangent):
    v = 0.7
    f, flow, p = exact_map(v), ExactFlow(Mixture.gaussian(v)), points(100, v)
    if form == "discrete" and isinstance(tangent, SelfTangent):
        tangent = FlowTangent()  # its solver's error is that of Heun's method, tested below
    found = errors(objective(form, tangent=tangent), f, flow, p, tangent)
    assert found.abs().max() < 1e-10
    with torch.no_grad():
        f.net.scale.mul_(1.5)  # and elsewhere they do not
    assert errors(objective(form, tangent=tangent), f, flow, p, tangent).abs().max() > 1e-2


def test_the_residual_of_the_eulerian_form_vanishes_with_its_derivative_along_the_flow():
    v, p = 0.7, points(100)
    f, flow = exact_map(v), ExactFlow(Mixture.gaussian(v))
    assert objective("eulerian").residual(f, flow, flow, p).abs().max() < 1e-10


@pytest.mark.parametrize(("solver", "order"), [(solvers.euler, 2), (solvers.heun, 3)])
def test_the_discrete_residual_falls_with_the_order_of_the_solver(solver, order):
    v, p = 0.7, points(200)
    flow = TeacherFlow(Mixture.gaussian(v).denoise, solver)
    found = [
        errors(objective("discrete", gap=FixedGap(gap)), exact_map(v), flow, p).abs().mean().item()
        for gap in (0.04, 0.02, 0.01)
    ]
    for coarse, fine in pairwise(found):
        assert math.log2(coarse / fine) == pytest.approx(order, abs=0.15)


def test_the_eulerian_gradient_vanishes_in_expectation_for_the_data():
    """Its mean over 400,000 samples is within three standard errors of 0; that of 1.5 f is not."""
    v, which, flow = 0.7, objective("eulerian"), DataFlow()

    def gradient(scale):
        f, p = exact_map(v), points(400_000, v)
        with torch.no_grad():
            f.net.scale.mul_(scale)
        residual = which.in_units(which.residual(f, flow, flow, p).detach(), p.t)
        each = (residual * p.x_t / p.t[:, None]).mean(1)  # f is a function of t and s, times x_t
        return each.mean().item(), each.std().item() / math.sqrt(len(each))

    mean, error = gradient(1.0)
    assert abs(mean) < 3 * error
    mean, error = gradient(1.5)
    assert abs(mean) > 10 * error


def test_the_bias_of_pairs_of_the_data_falls_with_the_square_of_the_gap():
    """f is linear here, so x and z may be replaced by their means given x_t: no Monte Carlo is needed."""
    v, p = 0.7, points(200)
    mean = Mixture.gaussian(v).denoise(p.x_t, p.t)
    p = p._replace(x=mean, z=(p.x_t - mean) / expand(p.t, mean))
    found = [
        errors(objective("discrete", gap=FixedGap(gap)), exact_map(v), DataFlow(), p).abs().mean().item()
        for gap in (0.04, 0.02, 0.01)
    ]
    for coarse, fine in pairwise(found):
        assert math.log2(coarse / fine) == pytest.approx(2, abs=0.15)


# What is contained: denoising, sCT, CT


@pytest.mark.parametrize("form", FORMS)
def test_at_the_diagonal_the_gradient_is_that_of_denoising(form):
    precond, x = EDM(S), gaussian(64, 2)
    law = LogNormal(-0.4, 1.0)
    f = wavy(precond)
    which = objective(form, diagonal=1.0, units=NetworkOutput(precond))
    which.times = SortedTimes(law, law, 1.0)
    terms = which(f, StopGradient(f), DataFlow(), x, NONE, 0, StepDraws(0))
    terms.loss.mean().backward()
    ours = [p.grad.clone() for p in f.parameters()]

    class Same:  # the levels that were drawn
        def sample(self, n, draws, device):
            law.sample(n, draws, device), law.sample(n, draws, device)
            return terms.sigma

    f.zero_grad()
    teacher = Denoising(Same(), SquaredL2(), UnitOutput(precond))
    theirs = teacher(f.diagonal, x, NONE, 0, StepDraws(0))
    theirs.loss.mean().backward()
    assert torch.allclose(terms.loss, theirs.loss, rtol=1e-10)
    assert all(
        torch.allclose(a, p.grad, rtol=1e-9, atol=1e-12) for a, p in zip(ours, f.parameters(), strict=True)
    )


def test_the_eulerian_form_at_the_diagonal_is_denoising_too():
    p = points(50)
    p = p._replace(s=p.t)
    f, flow = wavy(), DataFlow()
    residual = objective("eulerian").residual(f, flow, flow, p)
    assert torch.allclose(residual, f(p.x_t, p.t, p.t) - p.x, atol=1e-10)


@pytest.mark.parametrize("distil", [False, True])
def test_at_zero_the_eulerian_form_is_that_of_sct(distil):
    trig, x = Velocity(Trigonometric(S)), gaussian(64, 2)
    f = wavy(trig)
    flow = ExactFlow(Mixture.ring(std=0.2)) if distil else DataFlow()
    which = objective("eulerian", units=NetworkOutput(trig, S))
    law = LogNormal(-0.5, 1.4)
    which.times = SortedTimes(law, law, diagonal=0.0, zero=1.0)
    ours = which(f, StopGradient(f), flow, x, NONE, 0, StepDraws(0))
    ours.loss.mean().backward()
    gradients = [p.grad.clone() for p in f.parameters()]

    class Same:
        def sample(self, n, draws, device):
            law.sample(n, draws, device), law.sample(n, draws, device)
            return ours.sigma

    f.zero_grad()
    continuous = Continuous(Same(), ForwardMode(), Unbounded(), Unbalanced(), Uniform(), S, warmup=0)
    theirs = continuous(f.at_zero, StopGradient(f), flow, x, NONE, 0, StepDraws(0))
    theirs.loss.mean().backward()
    assert torch.allclose(ours.loss, theirs.loss, rtol=1e-9)
    pairs = zip(gradients, f.parameters(), strict=True)
    assert all(torch.allclose(a, p.grad, rtol=1e-8, atol=1e-12) for a, p in pairs)


def test_at_zero_pairs_are_those_of_consistency_training():
    p = points(50, s=0.0)
    f = wavy()
    r = p.t * 0.7
    ours = objective("discrete").target(f, DataFlow(), p, r)
    assert torch.allclose(ours, f.at_zero(perturb(p.x, p.z, r), r), atol=1e-10)


# Derivatives


@pytest.mark.parametrize("of", ["t", "s"])
def test_derivatives_agree_with_central_differences(of):
    f, p = wavy(), points(50)
    zero = torch.zeros_like(p.x_t)
    call = (
        (UntilS(f, p.s), p.x_t, p.t, NONE, p.z, p.t)
        if of == "t"
        else (FromT(f, p.t), p.x_t, p.s, NONE, zero, p.s)
    )
    exact, differences = ForwardMode()(*call), CentralDifferences(h=1e-5)(*call)
    for a, b in zip(exact, differences, strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_the_gradient_of_the_lagrangian_form_passes_through_its_derivative():
    f, p, flow = wavy(), points(30), ExactFlow(Mixture.gaussian(0.7))
    by = {}
    for name, derivative in (("jvp", ForwardMode()), ("differences", CentralDifferences(h=1e-4))):
        f.zero_grad()
        mean_square(errors(objective("lagrangian", derivative=derivative), f, flow, p)).mean().backward()
        by[name] = torch.cat([q.grad.flatten() for q in f.parameters()])
    assert torch.allclose(by["jvp"], by["differences"], rtol=1e-5, atol=1e-7)


# The papers' own forms, in their own coordinate: x_u = (1 - u) x_0 + u z


def velocity_of(f):
    """The network as MeanFlow calls it: ū(x_u, r, u), the raw output of a velocity network."""

    def u_bar(x, r, u):
        sigma, s = u / (1 - u), r / (1 - r)
        h = (s / S).atan() / (sigma / S).atan()
        return f.net(x, u, NONE, h)

    return u_bar


def linear(p):
    """x_u, u, r and v of some points."""
    u, r = p.t / (1 + p.t), p.s / (1 + p.s)
    return p.x_t * (1 - u)[:, None], u, r, p.z - p.x


def gradients(f, loss):
    f.zero_grad()
    loss.mean().backward()
    return torch.cat([q.grad.flatten() for q in f.parameters()])


def same(f, which, flow, p, theirs, tangent=None):
    """Loss and gradient of an objective below the diagonal, against another form of it."""
    below = (tangent or FlowTangent()).of(f, flow)
    ours = which.loss(which.errors(f, f, flow, below, p, 0, StepDraws(0)))
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-12)
    assert torch.allclose(gradients(f, ours), gradients(f, theirs), rtol=1e-8, atol=1e-10)


def meanflow(f, p, own=False, c=1e-3, power=0.75):
    """2505.13447, algorithm 1; 2512.02012, algorithm 1, with the velocity of the network itself."""
    x, u, r, v = linear(p)
    u_bar = velocity_of(f)
    with torch.no_grad():
        tangent = u_bar(x, u, u) if own else v
        _, dudt = torch.func.jvp(lambda x, u: u_bar(x, r, u), (x, u), (tangent, torch.ones_like(u)))
    V = u_bar(x, r, u) + (u - r)[:, None] * dudt
    square = (V - v).square().sum(1)
    return square / (square.detach() + c) ** power


def test_meanflow_in_its_own_coordinate():
    f, p = wavy(), points(60)
    same(f, objective("eulerian", power=AdaptiveSum(0.75, 1e-3)), DataFlow(), p, meanflow(f, p))


def test_improved_meanflow_in_its_own_coordinate():
    f, p, own = wavy(), points(60), SelfTangent()
    which = objective("eulerian", power=AdaptiveSum(1.0, 0.01), tangent=own)
    same(f, which, DataFlow(), p, meanflow(f, p, own=True, c=0.01, power=1.0), own)


def test_soflow_in_its_own_coordinate():
    """2512.15657, and its code: the solution functions at (x_u, u) and (x_l, l), l = u + (r - u) ρ."""
    f, p, gap = wavy(), points(60), 0.1
    x, u, r, v = linear(p)
    u_bar, low = velocity_of(f), u + (r - u) * gap
    ours = x - (u - r)[:, None] * u_bar(x, r, u)
    with torch.no_grad():
        x_l = x + (low - u)[:, None] * v
        end = x_l - (low - r)[:, None] * u_bar(x_l, r, low)
    quotient = ((ours - end) / (u - low)[:, None]).detach().square().mean(1)
    weight = (quotient + 1e-3) ** -0.75 / ((u - low) * (u - r))
    theirs = weight * (ours - end).square().mean(1)
    which = objective("discrete", gap=FixedGap(gap), quotient=1.0, weight=1.0, power=Adaptive(0.75, 1e-3))
    same(f, which, DataFlow(), p, theirs)


def test_alphaflow_in_its_own_coordinate():
    """2510.20771, eq. 9: ‖ū(x_u, r, u) - (α v + (1 - α) sg ū(x_l, r, l))‖², weighted as in its code."""
    f, p, alpha = wavy(), points(60), 0.3
    x, u, r, v = linear(p)
    u_bar, low = velocity_of(f), u - alpha * (u - r)
    with torch.no_grad():
        ahead = alpha * v + (1 - alpha) * u_bar(x - (u - low)[:, None] * v, r, low)
    square = (u_bar(x, r, u) - ahead).square().mean(1)
    which = objective("discrete", gap=FixedGap(alpha), weight=1.0, power=Adaptive(1.0, 1e-3))
    same(f, which, DataFlow(), p, alpha * square / (square.detach() + 1e-3))


def test_alphaflow_is_soflow_but_for_its_power():
    """Their errors differ by the factor α: with p = 1 and c for c α² the losses are the same."""
    f, p, alpha, c = wavy(), points(60), 0.3, 1e-3
    so = objective(
        "discrete", gap=FixedGap(alpha), quotient=1.0, weight=1.0, power=Adaptive(1.0, c / alpha**2)
    )
    ours = so.loss(so.errors(f, f, DataFlow(), DataFlow(), p, 0, StepDraws(0)))
    same(
        f, objective("discrete", gap=FixedGap(alpha), weight=1.0, power=Adaptive(1.0, c)), DataFlow(), p, ours
    )


def test_consistency_trajectory_models_in_their_own_coordinate():
    """2310.02279, eq. 8 to 10: G(x, t, s) = (s/t) x + (1 - s/t) g; both ends are taken to 0 by the target."""
    f, older, p = wavy(), wavy(seed=1).requires_grad_(False), points(60)
    density = Mixture.gaussian(0.7)
    flow, gap = ExactFlow(density), FixedGap(0.4)
    which = Endpoint(gap, Linear(), *parts_of(objective("discrete")))
    r = which.between(p.t, p.s, torch.full_like(p.t, 0.4))

    def G(f, x, t, s):
        w = (s / t)[:, None]
        return w * x + (1 - w) * f(x, t, s)

    zero = torch.zeros_like(p.t)
    with torch.no_grad():
        end = G(older, G(f, density.solve(p.x_t, p.t, r), r, p.s), p.s, zero)
    theirs = (G(older, G(f, p.x_t, p.t, p.s), p.s, zero) - end).square().mean(1)
    ours = which.loss(which.errors(f, older, flow, flow, p, 0, StepDraws(0)))
    assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-13)
    assert torch.allclose(gradients(f, ours), gradients(f, theirs), rtol=1e-8, atol=1e-11)


def parts_of(which):
    return which.times, which.units, which.power, which.balance, which.tangent


def test_self_distillation_in_its_own_coordinate():
    """2505.18825: ‖∂_r X̃ - v(X̃, r)‖² (LSD) and ‖ū - its two halves‖² (PSD, midpoint)."""
    f, p = wavy(), points(60)
    x, u, r, _ = linear(p)
    u_bar = velocity_of(f)

    def flow_map(r):
        return x - (u - r)[:, None] * u_bar(x, r, u)

    X, rate = torch.func.jvp(flow_map, (r,), (torch.ones_like(r),))
    lagrangian = (rate - u_bar(X, r, r).detach()).square().mean(1)
    same(f, objective("lagrangian"), DataFlow(), p, lagrangian, SelfTangent())
    with torch.no_grad():
        m = (u + r) / 2
        first = u_bar(x, m, u)
        halves = (first + u_bar(x - (u - m)[:, None] * first, r, m)) / 2
    semigroup = (u_bar(x, r, u) - halves).square().mean(1)
    same(f, objective("semigroup", gap=FixedGap(0.5)), DataFlow(), p, semigroup)


# Laws


def test_sorted_times_have_their_law_and_their_shares():
    law = SortedTimes(LogNormal(-0.6, 1.6), LogNormal(-4.0, 1.6), diagonal=0.25, zero=1 / 3)
    t, s = law(200_000, 0, StepDraws(0), torch.device("cpu"))
    assert (s <= t).all()
    assert (t > 0).all()
    on = law.on_diagonal(len(t))
    assert (s[on] == t[on]).all()
    assert on.double().mean() == 0.25
    assert (s[~on] == 0).double().mean() == pytest.approx(1 / 3, abs=1e-4)
    edges = torch.logspace(-4, 3, 20, dtype=torch.float64)
    drawn = torch.histc(t.log(), 19, edges[0].log().item(), edges[-1].log().item()) / len(t)
    assert (drawn - law.mass(edges, 0)).abs().max() < 0.005
    joint = law.joint_mass(edges, 0)
    assert joint.sum().item() == pytest.approx(1)
    assert torch.allclose(joint.sum(1), law.mass(edges, 0))
    cell = [(torch.bucketize(v, edges) - 1).clamp(0, 18) for v in (t, s)]
    count = torch.zeros(19, 19, dtype=torch.float64).index_put(
        tuple(cell), torch.ones_like(t), accumulate=True
    )
    assert (count / len(t) - joint).abs().max() < 0.005


def test_a_share_of_a_batch_is_spread_evenly():
    assert spread_evenly(0.25, 8).tolist() == [False, False, False, True] * 2
    assert spread_evenly(1 / 3, 9).sum() == 3
    assert spread_evenly(0.0, 5).sum() == 0
    assert spread_evenly(1.0, 5).all()


def test_clamped_times_have_their_law():
    """MeanFlow's second law, as its code has it: 30 % of s = t, a quarter by choice, the rest clamped."""
    law = ClampedTimes(LogNormal(-0.6, 1.6), LogNormal(-4.0, 1.6), diagonal=0.25)
    t, s = law(200_000, 0, StepDraws(0), torch.device("cpu"))
    off = ~law.on_diagonal(len(t))
    assert (s <= t).all()
    assert (s[off] < t[off]).all()
    assert (s > 0.9998 * t).double().mean() == pytest.approx(0.300, abs=0.003)
    edges = torch.logspace(-6, 3, 20, dtype=torch.float64)
    cell = [(torch.bucketize(v, edges) - 1).clamp(0, 18) for v in (t, s)]
    count = torch.zeros(19, 19, dtype=torch.float64).index_put(
        tuple(cell), torch.ones_like(t), accumulate=True
    )
    assert (count / len(t) - law.joint_mass(edges, 0)).abs().max() < 0.005


def test_the_gap_of_soflow_falls_exponentially():
    gap = ExponentialGap(1.0, 3.125e-4, K=1000)
    assert [gap.fraction(k) for k in (0, 500, 1000, 2000)] == pytest.approx(
        [1, 3.125e-4**0.5, 3.125e-4, 3.125e-4]
    )
    with pytest.raises(UserError, match="0 < last <= first"):
        ExponentialGap(0.1, 0.2)


def test_the_gap_of_alphaflow_is_a_sigmoid_with_both_ends_cut_off():
    """Its B/2 run: flow matching until 28.8 % of the training, MeanFlow from 71.2 % on."""
    gap = SigmoidGap(K=1000)
    assert [gap.fraction(k) for k in (0, 288, 500, 712, 1000)] == [1, 1, 0.5, 0, 0]
    assert 0.99 < gap.fraction(289) < 1
    assert 0 < gap.fraction(711) < 0.01


def test_pairs_hand_over_to_the_derivative_when_their_gap_is_0():
    f, x = wavy(), gaussian(32, 2)
    gap = SigmoidGap(K=100)
    pairs, limit = objective("discrete", diagonal=0.5, gap=gap), objective("eulerian", diagonal=0.5)
    both = Handover(gap, pairs, limit)
    for k, one in ((0, pairs), (50, pairs), (99, limit)):
        ours, theirs = (
            each(f, StopGradient(f), DataFlow(), x, NONE, k, StepDraws(k)) for each in (both, one)
        )
        assert torch.equal(ours.loss, theirs.loss)


# Refusals


def test_what_does_not_exist_is_refused_with_the_reason():
    f, flow = wavy(), DataFlow()
    with pytest.raises(UserError, match=r"flow=data knows them at x \+ t z alone"):
        objective("lagrangian", diagonal=0.5).check(f, flow)
    objective("lagrangian", diagonal=0.5, tangent=SelfTangent()).check(f, flow)
    with pytest.raises(UserError, match=r"set times\.diagonal above 0"):
        objective("eulerian", tangent=SelfTangent()).check(FlowMap(Wavy(), LINEAR, False), flow)
    with pytest.raises(UserError, match=r"set model\.diagonal=False"):
        objective("eulerian").check(f, flow)


def test_a_learned_balance_is_trained():
    f, x = wavy(), gaussian(32, 2)
    which = objective("eulerian", diagonal=0.5)
    which.balance = Learned()
    which(f, StopGradient(f), DataFlow(), x, NONE, 0, StepDraws(0)).loss.mean().backward()
    assert which.balance.linear.weight.grad.abs().max() > 0
