"""Other people's noise levels, their networks as denoisers, and denoisers as consistency functions."""

import math

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import NONE
from consistency.model.coordinates import DDPM, VP, Linear, Trigonometric
from consistency.model.maps import Denoiser
from consistency.model.precond import EDM, Epsilon, Jump, Velocity
from consistency.sampling.ode import Euler

COORDINATES = {
    "linear": Linear(),
    "trigonometric": Trigonometric(),
    "vp": VP(),
    "ddpm": DDPM.linear(),
    "cosine": DDPM.cosine(),
    "scaled": DDPM.scaled_linear(),
}
every_coordinate = pytest.mark.parametrize("coordinate", COORDINATES.values(), ids=COORDINATES)
LEVELS = torch.tensor([0.05, 0.1, 0.5, 0.821, 1.1, 5.0, 10.0], dtype=torch.float64)  # all of them reach these

# 2006.11239, section 4, T = 1000: index -> sigma.
DDPM_LEVELS = {0: 0.0100005, 1: 0.01483092, 10: 0.04688549, 100: 0.3422597, 250: 0.9580337, 500: 3.442967}
DDPM_LEVELS |= {750: 17.37860, 900: 60.82230, 999: 157.40728}

# sigma -> atan(sigma/0.5), sigma/(1 + sigma).
TABLE = {
    0.002: (0.003999979, 0.001996),
    0.5: (0.785398163, 0.333333),
    0.821: (1.023775674, 0.450851),
    1.1: (1.144168834, 0.523810),
    1.526: (1.254165854, 0.604117),
    80.0: (1.564546408, 0.987654),
    800.0: (1.570171327, 0.998752),
}


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


# Levels


def test_levels_of_ddpm():
    levels = DDPM.linear().levels
    assert levels[list(DDPM_LEVELS)].tolist() == pytest.approx(list(DDPM_LEVELS.values()), rel=1e-6)
    assert (levels.diff() > 0).all()
    assert 1 / (1 + levels[-1].item() ** 2) == pytest.approx(4.035830e-5, rel=1e-6)


def test_the_index_of_a_level_is_not_that_of_the_continuous_process():
    sigma = f64(80.0, 157.40728)
    assert DDPM.linear().time(sigma).tolist() == pytest.approx([929.618, 999.0], abs=1e-3)
    assert (999 * VP().time(sigma)).tolist() == pytest.approx([932.578, 1002.38], abs=5e-3)


def test_levels_that_no_ddpm_has_seen_get_the_nearest_index():
    ddpm = DDPM.linear()
    assert ddpm.lowest == pytest.approx(0.0100005, rel=1e-6)
    assert ddpm.time(f64(0.0, 0.002, ddpm.lowest)).tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert ddpm.time(f64(158.0, 1e6)).tolist() == [999, 999]
    assert ddpm.sigma(f64(-1, 1000)).tolist() == pytest.approx([DDPM_LEVELS[0], DDPM_LEVELS[999]], rel=1e-6)


def test_whole_indices_are_the_levels_and_the_logarithm_is_linear_between():
    ddpm = DDPM.linear()
    whole = torch.arange(1000, dtype=torch.float64)
    torch.testing.assert_close(ddpm.time(ddpm.levels), whole, rtol=0, atol=1e-9)
    torch.testing.assert_close(ddpm.sigma(whole), ddpm.levels)
    assert ddpm.sigma(f64(10.5)).item() == pytest.approx((ddpm.levels[10] * ddpm.levels[11]).sqrt().item())


def test_cosine_levels_follow_the_squared_cosine():
    bar = [math.cos((j / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for j in (0, 1, 101, 501, 901)]
    expected = [math.sqrt(bar[0] / b - 1) for b in bar[1:]]
    assert DDPM.cosine().levels[[0, 100, 500, 900]].tolist() == pytest.approx(expected, rel=1e-9)


def test_scaled_linear_betas():
    betas = DDPM.scaled_linear().betas
    assert (betas[0], betas[-1]) == pytest.approx((8.5e-4, 0.012))
    roots = f64(*betas).sqrt().diff()
    torch.testing.assert_close(roots, roots[:1].expand(999))


def test_vp():
    vp = VP()
    assert vp.sigma(f64(1.0, 1e-5)).tolist() == pytest.approx([152.167, 0.00100050], rel=1e-5)
    assert vp.lowest == pytest.approx(vp.sigma(f64(1e-5)).item(), rel=1e-5)
    sigma = torch.tensor([0.5, 80.0], dtype=torch.float64)
    tau = ((0.01 + 39.8 * (1 + sigma**2).log()).sqrt() - 0.1) / 19.9  # as published
    torch.testing.assert_close(vp.time(sigma), tau)


@pytest.mark.parametrize("sigma", TABLE)
def test_trigonometric_and_linear(sigma):
    t, u = TABLE[sigma]
    assert Trigonometric().time(f64(sigma)).item() == pytest.approx(t, abs=1e-9)
    assert Linear().time(f64(sigma)).item() == pytest.approx(u, abs=1e-6)


@every_coordinate
def test_there_and_back(coordinate):
    torch.testing.assert_close(coordinate.sigma(coordinate.time(LEVELS)), LEVELS, rtol=1e-9, atol=0)


@every_coordinate
def test_levels_in_half_precision_are_widened_first(coordinate):
    exact = coordinate.time(LEVELS.half().double())
    assert coordinate.time(LEVELS.half()).dtype == torch.float64
    assert torch.equal(coordinate.time(LEVELS.half()), exact)


@every_coordinate
def test_interpolant(coordinate):
    """σ = β/α; DDPM and VP keep the variance at 1, and TrigFlow at that of the data."""
    x_t = coordinate.interpolant(LEVELS)
    torch.testing.assert_close(x_t.beta / x_t.alpha, LEVELS)
    angle = LEVELS.div(coordinate.unit).atan()
    if isinstance(coordinate, Linear):
        torch.testing.assert_close(x_t.alpha + x_t.beta, torch.ones_like(LEVELS))
    else:
        torch.testing.assert_close(x_t.alpha, angle.cos())
        torch.testing.assert_close(x_t.beta, coordinate.unit * angle.sin())


@pytest.mark.parametrize("coordinate", [Linear(), Trigonometric()])
def test_rates_are_derivatives_by_time(coordinate):
    time, h = coordinate.time(LEVELS), 1e-6
    above, below = (coordinate.interpolant(coordinate.sigma(time + step)) for step in (h, -h))
    exact = coordinate.interpolant(LEVELS)
    torch.testing.assert_close((above.alpha - below.alpha) / (2 * h), exact.alpha_rate, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close((above.beta - below.beta) / (2 * h), exact.beta_rate, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("betas", [(), (0.1,), (0.1, 1.0), (0.0, 0.1), (0.1, math.nan)])
def test_betas_that_make_no_chain(betas):
    with pytest.raises(UserError, match=r"^coordinate\.betas"):
        DDPM(betas)


# Networks as denoisers


class Oracle(torch.nn.Module):
    """A network that knows the truth, and notes what it was shown."""

    def __init__(self, truth):
        super().__init__()
        self.truth = truth

    def forward(self, x, noise, c=NONE):
        self.seen, self.noise = x, noise
        return self.truth


@pytest.fixture
def pair():
    torch.manual_seed(0)
    clean, z = torch.randn(2, len(LEVELS), 3, dtype=torch.float64)
    return clean, z, LEVELS[:, None]


@every_coordinate
def test_the_true_noise_gives_the_clean_data(coordinate, pair):
    clean, z, sigma = pair
    D = Denoiser(Oracle(z), Epsilon(coordinate))
    torch.testing.assert_close(D(clean + sigma * z, LEVELS), clean)
    x_t = coordinate.interpolant(LEVELS)
    shown = x_t.alpha[:, None] * clean + x_t.beta[:, None] * z
    torch.testing.assert_close(D.net.seen, shown / coordinate.unit)
    torch.testing.assert_close(D.net.noise, coordinate.time(LEVELS))


@every_coordinate
def test_the_true_velocity_gives_the_clean_data(coordinate, pair):
    clean, z, sigma = pair
    rates = coordinate.interpolant(LEVELS)
    v = rates.alpha_rate[:, None] * clean + rates.beta_rate[:, None] * z
    D = Denoiser(Oracle(v / coordinate.unit), Velocity(coordinate, time_scale=1000.0))
    torch.testing.assert_close(D(clean + sigma * z, LEVELS), clean)
    torch.testing.assert_close(D.net.noise, 1000 * coordinate.time(LEVELS))


def test_velocity_of_a_flow():
    """D = x_u - u v with x_u = x/(1 + σ)."""
    c, u = Velocity(Linear())(LEVELS), LEVELS / (1 + LEVELS)
    for got, expected in zip(c, (1 - u, -u, 1 - u, u), strict=True):
        torch.testing.assert_close(got, expected)


def test_velocity_by_the_angle():
    """D = √ᾱ x_t - √(1-ᾱ) v (2202.00512, app. D)."""
    c, bar = Velocity(DDPM.linear())(LEVELS), 1 / (1 + LEVELS**2)
    torch.testing.assert_close(c.skip, bar)
    torch.testing.assert_close(c.out, -(1 - bar).sqrt())
    torch.testing.assert_close(c.inp, bar.sqrt())


def test_trigflow_is_edm_with_the_sign_turned():
    sigma = f64(*TABLE)
    trig, edm = Velocity(Trigonometric(0.5))(sigma), EDM(0.5)(sigma)
    torch.testing.assert_close(trig.skip, edm.skip, rtol=1e-14, atol=0)
    torch.testing.assert_close(trig.out, -edm.out, rtol=1e-14, atol=0)
    torch.testing.assert_close(trig.inp, edm.inp, rtol=1e-14, atol=0)
    assert trig.noise.tolist() == pytest.approx([t for t, _ in TABLE.values()], abs=1e-9)


@every_coordinate
def test_euler_is_the_same_step_in_every_coordinate(coordinate):
    """On Gaussian data N(0, v²), the true noise or the true velocity ends where the true denoiser does."""
    var, sigmas, z = 0.25, [10.0, 1.1, 0.1], f64(-1.0, 0.5)[:, None]

    def truth(x, sigma, c=NONE):
        return var / (var + sigma[:, None] ** 2) * x

    class Net(torch.nn.Module):
        def __init__(self, a, b):
            super().__init__()
            self.a, self.b = a, b

        def forward(self, x, noise, c=NONE):
            sigma = coordinate.sigma(noise)
            x_t = coordinate.interpolant(sigma)
            x = coordinate.unit * x / x_t.alpha[:, None]
            clean = truth(x, sigma)
            eps = (x - clean) / sigma[:, None]
            velocity = x_t.alpha_rate[:, None] * clean + x_t.beta_rate[:, None] * eps
            return self.a * eps + self.b * velocity / coordinate.unit

    exact = Euler(sigmas)(truth, z)
    torch.testing.assert_close(Euler(sigmas)(Denoiser(Net(1, 0), Epsilon(coordinate)), z), exact)
    torch.testing.assert_close(Euler(sigmas)(Denoiser(Net(0, 1), Velocity(coordinate)), z), exact)


# Denoisers as consistency functions

PRECONDS = {"edm": EDM(), "epsilon": Epsilon(DDPM.linear()), "flow": Velocity(Linear())}
every_precond = pytest.mark.parametrize("precond", PRECONDS.values(), ids=PRECONDS)


@every_precond
@pytest.mark.parametrize("epsilon", [0.002, 0.02, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_jump_from_the_lowest_level_is_the_identity(precond, epsilon, dtype):
    x = torch.randn(4, 3, dtype=dtype)
    f = Denoiser(Oracle(1e6 * torch.randn(4, 3, dtype=dtype)), Jump(precond, epsilon))
    assert torch.equal(f(x, torch.full((4,), epsilon, dtype=torch.float64)), x)


@every_precond
def test_a_jump_is_one_step_of_euler(precond, pair):
    x, F, sigma = pair
    D, f = (Denoiser(Oracle(F), p) for p in (precond, Jump(precond, 0.01)))
    slope = (x - D(x, LEVELS)) / sigma
    torch.testing.assert_close(f(x, LEVELS), x + (0.01 - sigma) * slope)
    torch.testing.assert_close(f.net.seen, D.net.seen)
    torch.testing.assert_close(f.net.noise, D.net.noise)
