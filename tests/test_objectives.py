"""Distances, weights, targets, and the two objectives, against formulas and the traps."""

import math

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.model.condition import NONE
from consistency.model.coordinates import DDPM, Linear, Trigonometric
from consistency.model.maps import Consistency
from consistency.model.precond import EDM, Boundary, Epsilon, Velocity
from consistency.objectives.denoising import Denoising
from consistency.objectives.discrete import Discrete
from consistency.objectives.distance import L1, PseudoHuber, SquaredL2
from consistency.objectives.flow import DataFlow
from consistency.objectives.target import EMATarget, StopGradient
from consistency.objectives.weighting import InverseGap, Uniform, UnitOutput
from consistency.schedule import decay
from consistency.schedule.curriculum import Constant
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import LogNormal, UniformCells
from consistency.schedule.pairs import GridPairs
from consistency.schedule.sigma import karras_grid
from consistency.tensor import expand, perturb, same_dropout
from consistency.truth.flow import ExactFlow
from tests.reference import golden

CPU = torch.device("cpu")


class Tiny(nn.Module):
    """A network with dropout whose calls are recorded."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layer, self.dropout, self.calls = nn.Linear(3, 2), nn.Dropout(dropout), []

    def forward(self, x, noise, c=NONE):
        self.calls.append((x, noise, torch.is_grad_enabled(), self.training))
        return self.dropout(self.layer(torch.cat([x, noise[:, None]], 1)))


class Gaussian:
    """The exact flow of N(0, v^2)."""

    def __init__(self, v):
        self.v = v

    def denoise(self, x, sigma, c=NONE):
        return self.v**2 * x / (self.v**2 + expand(sigma, x) ** 2)

    def solve(self, x, start, end):
        return x * expand(((self.v**2 + end**2) / (self.v**2 + start**2)).sqrt(), x)


def discrete(N=18, distance=None, weight=None, noise=None):
    return Discrete(
        GridPairs(Constant(N), noise or LogNormal()), distance or SquaredL2(), weight or Uniform()
    )


def test_pseudo_huber_is_of_the_image_norm():
    d = PseudoHuber()
    a = torch.zeros(3, 3, 32, 32, dtype=torch.float64)
    for norm, expected in golden.HUBER.items():
        direction = torch.randn_like(a)
        b = direction * norm / direction.flatten(1).norm(dim=1)[:, None, None, None]
        assert d(a, b).tolist() == pytest.approx([expected] * 3, rel=1e-5)
    # The element-wise mean, the usual mistake, would be 178 times smaller at a norm of one.
    assert d(a, a).tolist() == [0, 0, 0]


def test_pseudo_huber_constant_and_gradient():
    for shape, c in (((3, 32, 32), golden.HUBER_C), ((3, 64, 64), 0.0598596759), ((2,), 0.000763675)):
        a = torch.zeros(1, *shape, dtype=torch.float64)
        b = torch.full_like(a, 1e6)
        assert b.flatten().norm().item() - PseudoHuber()(a, b).item() == pytest.approx(c, rel=1e-3)
    x = torch.zeros(2, 2, requires_grad=True)
    PseudoHuber()(x, torch.zeros(2, 2)).sum().backward()
    assert torch.equal(x.grad, torch.zeros(2, 2))  # finite where the plain norm is not (trap 19)


def test_pseudo_huber_keeps_its_digits_in_float32():
    a, b = torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 1e-7)
    exact = PseudoHuber()(a.double(), b.double())
    assert PseudoHuber()(a, b).double().item() == pytest.approx(exact.item(), rel=1e-5)


def test_l1_and_l2_are_means_over_entries():
    a, b = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 2, 3, 4]).reshape(1, 1, 2, 2).repeat(2, 1, 1, 1)
    assert SquaredL2()(a, b).tolist() == [7.5, 7.5]
    assert L1()(a, b).tolist() == [2.5, 2.5]


def test_weights():
    t, r = torch.tensor([1.0, 80.0]).double(), torch.tensor([0.5, 45.31373408]).double()
    assert Uniform()(t, r).tolist() == [1, 1]
    assert InverseGap()(t, r).tolist() == pytest.approx([2, 0.028829855])
    for sigma, expected in golden.EDM_WEIGHT.items():
        value = UnitOutput(EDM())(torch.tensor([float(sigma)]).double(), torch.zeros(1)).item()
        assert value == pytest.approx(expected, rel=1e-6)


def test_edm_loss_is_unit_weight_on_the_network():
    """lambda c_out^2 = 1: the loss is the mean square error of F (2206.00364, eq. 8)."""
    sigma = torch.tensor([0.002, 0.3, 7.0, 80.0])
    assert torch.allclose(
        UnitOutput(EDM())(sigma.double(), sigma) * EDM()(sigma).out ** 2, torch.ones(4).double()
    )


def test_data_flow_keeps_the_noise():  # trap 2
    x, z = torch.randn(4, 2), torch.randn(4, 2)
    t, r = torch.full((4,), 2.0), torch.full((4,), 0.5)
    x_r = DataFlow().step(perturb(x, z, t), t, r, x, z, NONE)
    assert torch.equal(x_r, perturb(x, z, r))
    assert torch.equal(DataFlow().velocity(x_r, r, x, z, NONE), z)


def test_data_flow_is_an_unbiased_estimate_of_the_exact_velocity():
    """E[z | x_t] is the velocity of the probability flow (2303.01469, theorem 2), sign included."""
    torch.manual_seed(0)
    v, t = 0.5, torch.full((400_000,), 0.7, dtype=torch.float64)
    x, z = v * torch.randn(400_000, 1).double(), torch.randn(400_000, 1).double()
    x_t = perturb(x, z, t)
    near = (x_t - 0.6).abs() < 0.02
    exact = ExactFlow(Gaussian(v)).velocity(torch.tensor([[0.6]]).double(), t[:1], x, z, NONE)
    assert z[near].mean().item() == pytest.approx(exact.item(), abs=0.02)  # trap 4


def test_the_exact_flow_and_the_exact_function_leave_no_loss():
    v, eps = 0.5, 0.002

    class Exact(nn.Module):
        def forward(self, x, sigma, c=NONE):
            return Gaussian(v).solve(x, sigma, torch.full_like(sigma, eps))

    f = Exact()
    x = v * torch.randn(64, 2, dtype=torch.float64)
    exact = discrete()(f, StopGradient(f), ExactFlow(Gaussian(v)), x, NONE, 0, StepDraws(0))
    assert exact.loss.max() < 1e-20
    data = discrete()(f, StopGradient(f), DataFlow(), x, NONE, 0, StepDraws(0))
    assert data.loss.max() > 1e-4  # the one-sample velocity has variance


def test_golden_pair():
    """One step of the grid of 18 for Gaussian data: the exact flow ends at 1.98726851."""
    grid = karras_grid(18)
    x_t = torch.tensor([[3.29497897]], dtype=torch.float64)
    step = ExactFlow(Gaussian(0.5)).step(x_t, grid[9:10], grid[8:9], x_t, x_t, None)
    assert step.item() == pytest.approx(1.98726851, abs=1e-8)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_target_is_stopped_cleaner_and_in_training_mode(dropout):
    net = Tiny(dropout)
    f = Consistency(net, Boundary()).train()
    terms = discrete()(f, StopGradient(f), DataFlow(), torch.randn(8, 2), NONE, 0, StepDraws(0))
    (_, noise_t, grad_t, mode_t), (_, noise_r, grad_r, mode_r) = net.calls
    assert (noise_r < noise_t).all()  # trap 3
    assert (grad_t, grad_r) == (True, False)  # trap 7
    assert mode_t
    assert mode_r
    assert terms.loss.shape == terms.sigma.shape == (8,)


def test_dropout_masks_are_shared():  # trap 1
    net = nn.Dropout(0.5)
    torch.manual_seed(0)
    with same_dropout(CPU):
        first = net(torch.ones(1000))
    assert torch.equal(first, net(torch.ones(1000)))
    assert not torch.equal(first, net(torch.ones(1000)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_dropout_masks_are_shared_on_the_gpu():  # trap 1
    net, x = nn.Dropout(0.5), torch.ones(1000, device="cuda")
    with same_dropout(x.device):
        first = net(x)
    assert torch.equal(first, net(x))


def test_shared_masks_make_the_loss_vanish_where_the_pair_coincides():
    """With one mask for both ends a network that ignores its input has no loss, whatever its dropout."""

    class Noise(nn.Module):
        def forward(self, x, sigma, c=NONE):
            return nn.functional.dropout(torch.ones_like(x), 0.5)

    f = Noise()
    terms = discrete()(f, StopGradient(f), DataFlow(), torch.randn(64, 2), NONE, 0, StepDraws(0))
    assert terms.loss.max() == 0


def test_gradient_is_that_of_the_student_alone():
    f = Consistency(Tiny(), Boundary())
    target = EMATarget(f, decay.Constant(0.5))
    x = torch.randn(16, 2)
    discrete()(f, target, DataFlow(), x, NONE, 0, StepDraws(3)).loss.mean().backward()
    assert all(p.grad is None for p in target.parameters())
    with_copy = [p.grad.clone() for p in f.parameters()]
    f.zero_grad()
    discrete()(f, StopGradient(f), DataFlow(), x, NONE, 0, StepDraws(3)).loss.mean().backward()
    for a, p in zip(with_copy, f.parameters(), strict=True):  # equal, while the copy still equals f
        assert torch.equal(a, p.grad)


def test_ema_target_follows_the_law_and_copies_buffers():  # traps 6 and 10
    f = Consistency(Tiny(), Boundary())
    f.net.register_buffer("steps", torch.zeros((), dtype=torch.long))
    target = EMATarget(f, decay.Adaptive(Constant(3), s0=2, mu0=0.9))
    mu = math.exp(2 * math.log(0.9) / 3)
    before = f.net.layer.weight.detach().clone()
    with torch.no_grad():
        f.net.layer.weight += 1
        f.net.steps += 5
    target.update(f, 0)
    assert torch.allclose(target(f).net.layer.weight, before + (1 - mu))
    assert target(f).net.steps == 5
    assert target.progress(0) == {"mu": mu}
    assert not any(p.requires_grad for p in target.parameters())


def test_adaptive_decay_refuses_nonsense():
    with pytest.raises(UserError, match=r"target\.mu\.mu0=1\.5"):
        decay.Adaptive(Constant(3), mu0=1.5)


def test_denoising_is_minimised_by_the_posterior_mean():
    torch.manual_seed(0)
    x = 0.5 * torch.randn(200_000, 1, dtype=torch.float64)
    objective = Denoising(LogNormal(-1.2, 1.2), SquaredL2(), UnitOutput(EDM()))

    def loss(scale):
        exact = Gaussian(0.5)
        return objective(lambda y, s, *_: scale * exact.denoise(y, s), x, NONE, 0, StepDraws(0)).loss.mean()

    assert loss(1.0) < loss(1.02)
    assert loss(1.0) < loss(0.98)


def test_uniform_law_and_lognormal_law_weigh_noise_levels_differently():
    f = Consistency(Tiny(), Boundary())
    args = (f, StopGradient(f), DataFlow(), torch.randn(4000, 2), NONE, 0, StepDraws(0))
    uniform, lognormal = discrete(noise=UniformCells())(*args), discrete()(*args)
    assert uniform.sigma.median() > 2 * lognormal.sigma.median()


@pytest.mark.parametrize(
    ("precond", "said"),
    [
        (Epsilon(DDPM.linear()), lambda x, z, sigma: z),
        (Velocity(Linear()), lambda x, z, sigma: z - x),
        (Velocity(Trigonometric()), None),
    ],
)
def test_one_weight_makes_every_teachers_loss_the_error_of_what_its_network_says(precond, said):
    """L_simple of a DDPM, the regression of a flow: the mean square error of ε or of v."""
    torch.manual_seed(0)
    x, z = torch.randn(16, 3).double(), torch.randn(16, 3).double()
    sigma = LogNormal(0, 1.5).sample(16, StepDraws(1), CPU)
    F = torch.randn(16, 3).double()
    c = precond(sigma)
    x_sigma = perturb(x, z, sigma)
    D = expand(c.skip, x) * x_sigma + expand(c.out, x) * F
    loss = UnitOutput(precond)(sigma, torch.zeros_like(sigma)) * SquaredL2()(D, x)
    wanted = (x - expand(c.skip, x) * x_sigma) / expand(c.out, x)  # what F would have to be
    assert torch.allclose(loss, (F - wanted).square().mean(1))
    if said is not None:
        assert torch.allclose(wanted, said(x, z, sigma))
