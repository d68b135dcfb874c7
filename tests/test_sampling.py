"""Samplers against the golden ends of exact probability flows."""

import math
from itertools import pairwise

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.model.coordinates import DDPM, Linear
from consistency.model.maps import Denoiser
from consistency.model.precond import Velocity
from consistency.nets.unet import UNet
from consistency.sampling.levels import even_sigmas, karras_sigmas
from consistency.sampling.ode import DDIM, Euler, Heun
from consistency.sampling.samplers import MultiStep, OneStep
from consistency.schedule.draws import ImageDraws, StepDraws
from consistency.tensor import expand
from tests.reference import golden


def gaussian(v):
    return lambda x, sigma, c: v**2 * x / (v**2 + expand(sigma, x) ** 2)


@pytest.mark.parametrize("v", golden.GAUSSIAN_END)
def test_solvers_end_where_the_golden_table_says(v):
    z = torch.ones(1, 1, dtype=torch.float64)
    _, heun18, heun40, euler18 = golden.GAUSSIAN_END[v]
    assert Heun(karras_sigmas(18))(gaussian(v), z).item() == pytest.approx(heun18, abs=1e-8)
    assert Heun(karras_sigmas(40))(gaussian(v), z).item() == pytest.approx(heun40, abs=1e-8)
    assert Euler(karras_sigmas(18))(gaussian(v), z).item() == pytest.approx(euler18, abs=1e-8)


@pytest.mark.parametrize("N", golden.MIXTURE_END)
def test_heun_on_the_two_point_mixture(N):
    def D(x, sigma, c):
        return torch.tensor([[golden.mixture_denoiser(x.item(), sigma.item())]], dtype=torch.float64)

    z = torch.full((1, 1), 24 / 80, dtype=torch.float64)
    assert Heun(karras_sigmas(N))(D, z).item() == pytest.approx(golden.MIXTURE_END[N], abs=1e-8)


def test_orders_of_convergence_towards_the_exact_end():
    exact = golden.GAUSSIAN_END[0.5][0]
    z = torch.ones(1, 1, dtype=torch.float64)

    def error(solver, N):  # the last, Euler, step to 0 is the same for both and shrinks with sigma_min
        return abs(solver(karras_sigmas(N))(gaussian(0.5), z).item() - exact)

    assert 1.8 < error(Euler, 160) / error(Euler, 320) < 2.3
    assert 3.5 < error(Heun, 80) / error(Heun, 160) < 5


def test_network_calls():
    calls = []

    def D(x, sigma, c):
        calls.append(sigma[0].item())
        return torch.zeros_like(x)

    z = torch.randn(2, 3)
    Heun(karras_sigmas(18))(D, z)
    assert len(calls) == 35
    calls.clear()
    Euler(karras_sigmas(18))(D, z)
    assert len(calls) == 18
    calls.clear()
    MultiStep([80.0, 0.821])(D, z, draws=ImageDraws(0, range(2)))
    assert calls == [80.0, 0.821]


def test_one_step_starts_from_the_highest_level_and_takes_the_label():  # trap 16
    seen = {}

    def f(x, sigma, c):
        seen.update(x=x, sigma=sigma, c=c)
        return x

    z, c = torch.randn(4, 2), Condition(torch.arange(4))
    OneStep([80.0])(f, z, c)
    assert torch.equal(seen["x"], 80 * z)
    assert seen["sigma"].tolist() == [80.0] * 4
    assert seen["c"] is c


def test_multistep_renoises_with_the_variance_that_is_missing():
    seen = []

    def f(x, sigma, c):
        seen.append(x)
        return torch.zeros_like(x)

    z = torch.randn(20_000, 1)
    MultiStep([80.0, 0.5], sigma_min=0.3)(f, z, draws=ImageDraws(0, range(20_000)))
    assert seen[1].std().item() == pytest.approx(math.sqrt(0.5**2 - 0.3**2), rel=0.02)
    assert abs(torch.corrcoef(torch.stack([seen[1], z], 0).squeeze())[0, 1]) < 0.02  # fresh noise


def test_levels_at_and_below_epsilon_give_no_nan():
    f = gaussian(0.5)
    for tau in (0.002, 0.0019999999, 0.0):
        x = MultiStep([80.0, tau])(f, torch.randn(3, 2), draws=ImageDraws(0, range(3)))
        assert x.isfinite().all()


def test_multistep_without_draws_is_refused():
    with pytest.raises(UserError, match="draws"):
        MultiStep([80.0, 1.0])(gaussian(0.5), torch.randn(3, 2))


def test_exact_consistency_function_samples_the_data_in_one_and_in_two_steps():
    v, eps = 0.5, 0.002

    def f(x, sigma, c):
        return x * expand(((v**2 + eps**2) / (v**2 + sigma**2)).sqrt(), x)

    z = torch.randn(50_000, 1)
    draws = ImageDraws(0, range(50_000))
    for x in (OneStep([80.0])(f, z), MultiStep([80.0, 0.821])(f, z, draws=draws)):
        assert x.std().item() == pytest.approx(v, rel=0.01)


def test_solvers_keep_float64_inside_and_the_dtype_outside():
    dtypes = set()

    def D(x, sigma, c):
        dtypes.add((x.dtype, sigma.dtype))
        return x * 0

    assert Heun(karras_sigmas(5))(D, torch.randn(2, 2)).dtype == torch.float32
    assert dtypes == {(torch.float32, torch.float64)}


# --- samplers of other coordinates ------------------------------------------------------------------------


def test_ddim_without_noise_is_eulers_method():
    sigmas, z = even_sigmas(DDPM.linear(), 18), torch.randn(4, 2, dtype=torch.float64)
    assert torch.equal(DDIM(sigmas)(gaussian(0.5), z), Euler(sigmas)(gaussian(0.5), z))


def test_native_ddim_of_the_chain():
    """2010.02502, eq. 12 in its own words, x_t = √ᾱ x_0 + √(1-ᾱ) ε, deterministic and with η = 1."""
    chain, D = DDPM.linear(), gaussian(0.5)
    bars = torch.tensor(chain.betas, dtype=torch.float64).neg().add(1).cumprod(0)
    j = [900, 700, 400, 100, 0]
    sigmas = chain.levels[j].tolist()

    def native(z, eta, draws):
        x = (1 - bars[j[0]]).sqrt() * z
        for now, after in zip(j, [*j[1:], None], strict=True):
            a, b = bars[now], bars[after] if after is not None else torch.ones(()).double()
            sigma = ((1 - a) / a).sqrt()
            x_0 = D(x / a.sqrt(), sigma.expand(len(x)), None)
            noise = (x - a.sqrt() * x_0) / (1 - a).sqrt()
            fresh = eta * ((1 - b) / (1 - a) * (1 - a / b)).sqrt()
            x = b.sqrt() * x_0 + (1 - b - fresh**2).sqrt() * noise
            if fresh > 0:
                x = x + fresh * draws.normal(x)
        return x

    z = torch.randn(6, 2, dtype=torch.float64)
    for eta in (0.0, 1.0):
        ours = DDIM(sigmas, eta=eta)(D, z, draws=ImageDraws(0, range(6)))
        theirs = native(z, eta, ImageDraws(0, range(6)))
        assert torch.allclose(ours, theirs, atol=1e-10)


def test_native_euler_of_a_flow():
    """x_u' = x_u + (u' - u) v with v = (x_u - D)/u, from u of the highest σ to 0."""
    D, z = gaussian(0.5), torch.randn(6, 2, dtype=torch.float64)
    u = torch.linspace(80 / 81, 0.0, 11).double()
    x = u[0] * z
    for now, after in pairwise(u):
        v = (x - D(x / (1 - now), (now / (1 - now)).expand(6), None)) / now
        x = x + (after - now) * v
    sigmas = Linear().sigma(u[:-1]).tolist()
    assert torch.allclose(Euler(sigmas)(D, z), x, atol=1e-10)
    assert sigmas[0] == pytest.approx(80)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_velocity_network_gives_the_samples_of_its_native_sampler(dtype):
    """The network called as flow matching calls it, (x_u, 1000 u), against the same one as D(x, σ)."""
    torch.manual_seed(0)
    net = UNet((3, 8, 8), channels=8, multipliers=(1, 2), blocks=1, attention=(4,)).to(dtype)
    for p in net.parameters():
        torch.nn.init.normal_(p, std=0.1)
    z, u = torch.randn(4, 3, 8, 8, dtype=dtype), torch.linspace(80 / 81, 0, 19).double()
    x = u[0] * z.double()
    with torch.no_grad():
        for now, after in pairwise(u):
            x = x + (after - now) * net(x.to(dtype), 1000 * now.expand(4).to(dtype)).double()
    D = Denoiser(net, Velocity(Linear(), time_scale=1000.0))
    ours = Euler(Linear().sigma(u[:-1]).tolist())(D, z)
    assert x.std() > 0.5
    assert torch.allclose(ours.double(), x, atol=1e-4 if dtype == torch.float32 else 1e-10)


def test_even_sigmas_stay_within_what_a_chain_knows():
    sigmas = even_sigmas(DDPM.linear(), 5, 0.002, 80.0)
    assert sigmas[0] == pytest.approx(80)
    assert sigmas[-1] == pytest.approx(0.0100005, rel=1e-5)
    index = DDPM.linear().time(torch.tensor(sigmas).double())
    assert torch.allclose(index.diff(), index.diff()[0].expand(4))


def test_ancestral_sampling_without_draws_is_refused():
    with pytest.raises(UserError, match="draws"):
        DDIM([80.0, 1.0], eta=1.0)(gaussian(0.5), torch.randn(2, 2))


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ancestral_sampling_keeps_the_distribution(eta):
    sigmas, z = karras_sigmas(200), torch.randn(20_000, 1)
    x = DDIM(sigmas, eta=eta)(gaussian(0.5), z, draws=StepDraws(1))
    assert x.std().item() == pytest.approx(0.5, rel=0.05)
