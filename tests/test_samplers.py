"""Samplers as values: against formulas written anew, exact flows and diffusers' own loops; their programs."""

import math
from dataclasses import FrozenInstanceError, fields, replace
from itertools import pairwise

import diffusers
import pytest
import torch
from torch import nn

from consistency.errors import ArgumentError, UserError
from consistency.metrics.protocol import describe_sampler
from consistency.model.condition import NONE, Condition
from consistency.model.maps import Consistency, Denoiser, FlowMap
from consistency.model.portions import Portions
from consistency.model.precond import EDM, Boundary
from consistency.sampling import scheduled
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.ode import DDIM, DPMSolver, Euler, Heun
from consistency.sampling.samplers import Jumps, MultiStep, OneStep
from consistency.sampling.scheduled import DEIS, DPMSolver2, UniPC
from consistency.schedule.draws import ImageDraws, StepDraws
from consistency.tensor import expand
from consistency.truth.oracle import Mixture

RING = Mixture.ring()
TEN = karras_sigmas(10)
SOLVERS = [Euler(TEN), Heun(TEN), Heun(TEN, s_churn=5), DDIM(TEN), DDIM(TEN, eta=0.5), DPMSolver(TEN)]
THEIRS = [DPMSolver2(TEN), DEIS(TEN), DEIS(TEN, order=2), UniPC(TEN), UniPC(TEN, order=2)]
OURS = [OneStep([80.0]), MultiStep([80.0, 0.8, 0.1]), *SOLVERS, *THEIRS]
JUMPS = [Jumps([80.0]), Jumps([80.0, 5.0, 0.8]), Jumps([80.0, 5.0, 0.8], gamma=0.4)]


def ring(x, sigma, c=NONE):
    return RING.denoise(x, sigma)


def title(sampler):
    return "-".join([sampler.title, *(f"{k}={v}" for k, v in sampler.described_options.items())])


class Net(nn.Module):
    """A smooth network of x, c_noise and, of a flow map, h."""

    takes = ()

    def __init__(self, times=1):
        super().__init__()
        self.times = times
        torch.manual_seed(0)
        self.inner, self.outer = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x, noise, c=NONE, h=None):
        h = torch.zeros_like(noise) if h is None else h
        seen = torch.cat([x, noise[:, None].to(x.dtype), h[:, None].to(x.dtype)], 1)
        return self.outer(self.inner(seen).tanh())


MAPS = {
    Denoiser: Denoiser(Net(), EDM()),
    Consistency: Consistency(Net(), Boundary()),
    FlowMap: FlowMap(Net(times=2), EDM(), diagonal=True),
}


# --- a value ----------------------------------------------------------------------------------------------


def test_a_sampler_is_a_value():
    sampler = MultiStep([80, 1])
    assert sampler.sigmas == (80.0, 1.0)
    assert sampler == MultiStep((80.0, 1.0))
    assert hash(sampler) == hash(MultiStep((80.0, 1.0)))
    with pytest.raises(FrozenInstanceError):
        sampler.sigmas = (1.0,)
    moved = sampler.with_sigmas([80, 2, 1])
    assert moved == MultiStep([80, 2, 1])
    assert sampler.family(moved)
    assert not sampler.family(replace(sampler, clip=True))
    assert not Euler([80.0]).family(DDIM([80.0]))


@pytest.mark.parametrize("sampler", [*OURS, *JUMPS], ids=title)
def test_network_calls_are_those_that_are_made(sampler):
    calls = []

    def f(x, sigma, *rest):
        calls.append(sigma)
        return torch.zeros_like(x)

    sampler(f, torch.randn(2, 3), draws=ImageDraws(0, range(2)))
    assert len(calls) == sampler.nfe
    assert sampler.levels_of(sampler.nfe) == len(sampler.sigmas)


def test_heuns_method_makes_no_even_number_of_calls():
    assert [Heun(TEN).levels_of(n) for n in (1, 2, 3, 35)] == [1, None, 2, 18]
    assert [OneStep([80.0]).levels_of(n) for n in (1, 2)] == [1, None]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Euler([]), r"sigmas=\[\]"),
        (lambda: Euler([0.0]), "first greater than 0"),
        (lambda: Euler([math.nan]), "noise levels"),
        (lambda: Euler("80"), "noise levels"),
        (lambda: Euler([80.0, "a"]), "list of noise levels"),
        (lambda: Euler(80.0), "list of noise levels"),
        (lambda: Heun([1.0, 2.0]), "must fall"),
        (lambda: Heun([1.0, 0.0]), "must fall"),
        (lambda: OneStep([80.0, 1.0]), "use MultiStep"),
        (lambda: MultiStep([80.0], sigma_min=-1), "sigma_min=-1 must"),
        (lambda: DDIM(TEN, eta=1.5), r"eta=1\.5 must"),
        (lambda: DDIM(TEN, eta=math.nan), "eta=nan must"),
        (lambda: Jumps([80.0], gamma=2), "gamma=2 must"),
        (lambda: Heun(TEN, s_churn=-1), "s_churn=-1 must"),
        (lambda: Heun(TEN, s_min=2.0, s_max=1.0), r"s_min=2\.0 must be at most"),
        (lambda: Heun(TEN, s_noise=math.nan), "s_noise=nan"),
        (lambda: Euler(TEN, clip=1), "clip=1 must be true or false"),
        (lambda: Euler(TEN, precond=3), "precond is no preconditioner"),
        (lambda: DEIS(TEN, order=4), "order=4 must be 1, 2 or 3"),
        (lambda: UniPC(karras_sigmas(1001)), "1000 are the most"),
    ],
)
def test_arguments_are_refused_where_a_sampler_is_made(make, said):
    with pytest.raises(ArgumentError, match=said):
        make()


def test_a_solver_of_diffusers_needs_diffusers(monkeypatch):
    monkeypatch.setattr(scheduled, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"DEIS needs diffusers: pip install -e '\.\[export\]'"):
        DEIS(TEN)


def test_cards_say_what_they_have_said_and_options_that_make_a_difference():
    one, two, heun = {"sigmas": [80.0]}, {"sigmas": [80.0, 1.0]}, {"sigmas": [80.0, 1.0], "s_churn": 4}
    assert describe_sampler(OneStep(**one)) == {"sampler": "onestep", "nfe": 1, **one}
    assert describe_sampler(MultiStep(**two)) == {"sampler": "multistep", "nfe": 2, **two, "sigma_min": 0.002}
    assert describe_sampler(Euler(**two)) == {"sampler": "euler", "nfe": 2, **two}
    assert describe_sampler(Heun(**two)) == {"sampler": "heun", "nfe": 3, **two}
    assert describe_sampler(DDIM(**two)) == {"sampler": "ddim", "nfe": 2, **two, "eta": 0.0}
    assert describe_sampler(Heun(**heun)) == {"sampler": "heun", "nfe": 3, **heun}
    clipped = describe_sampler(OneStep(**one, clip=True, precond=EDM()))
    assert clipped["clip"] is True
    assert clipped["precond"] == "EDM(sigma_data=0.5, time_scale=0.25)"


# --- numbers ----------------------------------------------------------------------------------------------


def old_solver(D, z, sigmas, second):
    """Euler's and Heun's methods as they were functions, in one loop."""
    x = z.double() * sigmas[0]
    for t, r in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        T = torch.full((len(z),), t, dtype=torch.float64)
        R = torch.full((len(z),), r, dtype=torch.float64)
        d = (x - D(x.to(z.dtype), T).double()) / expand(T, x)
        end = x + expand(R - T, x) * d
        if second and r > 0:
            d_end = (end - D(end.to(z.dtype), R).double()) / expand(R, x)
            end = x + expand(R - T, x) * ((d + d_end) / 2)
        x = end
    return x.to(z.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_are_those_of_the_functions_that_samplers_were(dtype):
    torch.manual_seed(1)
    z, D, f = torch.randn(5, 2, dtype=dtype), MAPS[Denoiser], MAPS[Consistency]
    D, f = (each.to(dtype) for each in (D, f))
    with torch.no_grad():
        assert torch.equal(Euler(TEN)(D, z), old_solver(D, z, TEN, False))
        assert torch.equal(Heun(TEN)(D, z), old_solver(D, z, TEN, True))
        assert torch.equal(DDIM(TEN)(D, z), old_solver(D, z, TEN, False))
        assert torch.equal(OneStep([80.0])(f, z), f(80.0 * z, 80.0))
        draws, x = ImageDraws(3, range(5)), f(80.0 * z, 80.0)
        for tau in (0.8, 0.002):  # of which the latter is raised to ε
            x = f(x + (tau**2 - 0.002**2) ** 0.5 * draws.normal(x), tau)
        assert torch.equal(MultiStep([80.0, 0.8, 0.001])(f, z, draws=ImageDraws(3, range(5))), x)
    for each in (D, f):
        each.float()


def test_dpm_solver_against_its_paper():
    """2211.01095, algorithm 2, for α = 1/√(1 + σ²) as diffusion in variance-preserving form has it."""
    z = torch.randn(6, 2, dtype=torch.float64)
    alpha = [1 / math.sqrt(1 + s * s) for s in TEN]
    beta = [a * s for a, s in zip(alpha, TEN, strict=True)]
    lam = [math.log(a / b) for a, b in zip(alpha, beta, strict=True)]

    def D(i, x):
        return RING.denoise(x / alpha[i], torch.full((6,), TEN[i], dtype=torch.float64))

    x = z * TEN[0] * alpha[0]
    outputs = [D(0, x)]
    for i in range(1, len(TEN)):
        h = lam[i] - lam[i - 1]
        if i == 1:
            towards = outputs[0]
        else:
            r = (lam[i - 1] - lam[i - 2]) / h
            towards = (1 + 1 / (2 * r)) * outputs[-1] - 1 / (2 * r) * outputs[-2]
        x = beta[i] / beta[i - 1] * x - alpha[i] * (math.exp(-h) - 1) * towards
        outputs.append(D(i, x))
    assert torch.allclose(DPMSolver(TEN)(ring, z), outputs[-1], atol=1e-10, rtol=0)


@pytest.fixture(scope="module")
def exact():
    torch.manual_seed(0)
    z = torch.randn(64, 2, dtype=torch.float64)
    start, end = (torch.full((64,), s, dtype=torch.float64) for s in (80.0, 0.002))
    return z, RING.solve(80 * z, start, end, 1000)


@pytest.mark.parametrize(
    ("kind", "steps", "low", "high"),
    [(Euler, 40, 1.9, 2.2), (Heun, 40, 3.8, 5.0), (DPMSolver, 40, 3.8, 5.2), (DPMSolver2, 40, 3.8, 5.2)],
)
def test_orders_of_convergence_on_a_mixture(kind, steps, low, high, exact):
    z, end = exact
    coarse, fine = ((kind(karras_sigmas(n))(ring, z) - end).abs().mean() for n in (steps, 2 * steps))
    assert low < coarse / fine < high


@pytest.mark.parametrize("kind", [DEIS, UniPC])
def test_methods_of_third_order_come_close_to_the_exact_flow(kind, exact):
    z, end = exact
    theirs, heun = (
        (s(ring, z) - end).abs().mean() for s in (kind(karras_sigmas(40)), Heun(karras_sigmas(40)))
    )
    assert theirs < 1e-3
    assert theirs < heun / 3  # with half of the calls


def test_every_solver_ends_near_the_exact_end(exact):
    z, end = exact
    for sampler in (s.with_sigmas(karras_sigmas(80)) for s in (*SOLVERS, *THEIRS) if not s.fresh):
        assert (sampler(ring, z) - end).abs().mean() < 0.01, sampler.title


LOOPS = {
    "dpm": (DPMSolver, "DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "dpm2": (
        DPMSolver2,
        "DPMSolverSinglestepScheduler",
        {"algorithm_type": "dpmsolver", "lower_order_final": True, "final_sigmas_type": "sigma_min"},
    ),
    "deis": (DEIS, "DEISMultistepScheduler", {"solver_order": 3}),
    "unipc": (UniPC, "UniPCMultistepScheduler", {"solver_order": 3}),
}


@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("count", [9, 10])
def test_samples_are_those_of_diffusers_own_loop(name, count):
    """On their chain of 1,000 levels, with their noise prediction, to the last level but one."""
    kind, theirs, options = LOOPS[name]
    with scheduled.without_scheduler_warnings():
        scheduler = getattr(diffusers, theirs)(**options)
        scheduler.set_timesteps(count)
    levels = scheduler.sigmas.double().tolist()[:count]
    torch.manual_seed(0)
    z = torch.randn(16, 2, dtype=torch.float64)
    x = z * levels[0] / math.sqrt(1 + levels[0] ** 2)
    for sigma, t in list(zip(levels, scheduler.timesteps, strict=True))[:-1]:
        state = x * math.sqrt(1 + sigma**2)
        noise = (state - RING.denoise(state, torch.full((16,), sigma).double())) / sigma
        with scheduled.without_scheduler_warnings():
            x = scheduler.step(noise, t, x).prev_sample
    last = levels[-1]
    end = RING.denoise(x.double() * math.sqrt(1 + last**2), torch.full((16,), last).double())
    assert (
        kind(levels)(ring, z) - end
    ).abs().max() < 2e-4  # their levels and some of their states are float32


# --- options ----------------------------------------------------------------------------------------------


def test_without_churn_the_stochastic_sampler_is_heuns():
    z = torch.randn(4, 2)
    still = Heun(TEN, s_churn=10, s_min=100.0)  # no level lies so high
    assert not still.fresh
    for sampler in (still, Heun(TEN, s_churn=0.0, s_noise=1.007)):
        assert torch.equal(sampler(ring, z), Heun(TEN)(ring, z))


def test_churn_is_algorithm_2():
    """2206.00364, as EDM's generate.py has it."""
    churn, low, high, scale, z = 6.0, 0.05, 50.0, 1.003, torch.randn(5, 2, dtype=torch.float64)
    draws, x = ImageDraws(7, range(5)), z * TEN[0]
    for t, r in zip(TEN, [*TEN[1:], 0.0], strict=True):
        gamma = min(churn / len(TEN), math.sqrt(2) - 1) if low <= t <= high else 0.0
        hat = t + gamma * t
        if gamma:
            x = x + math.sqrt(hat**2 - t**2) * scale * draws.normal(x)
        d = (x - ring(x, torch.full((5,), hat).double())) / hat
        end = x + (r - hat) * d
        if r:
            d_end = (end - ring(end, torch.full((5,), r).double())) / r
            end = x + (r - hat) * (d / 2 + d_end / 2)
        x = end
    sampler = Heun(TEN, s_churn=churn, s_min=low, s_max=high, s_noise=scale)
    assert torch.allclose(sampler(ring, z, draws=ImageDraws(7, range(5))), x, atol=1e-7)
    with pytest.raises(UserError, match="heun19 needs draws"):
        sampler(ring, z)


def test_churn_keeps_the_distribution():
    gaussian = Mixture.gaussian(0.5, (1,))
    x = Heun(karras_sigmas(100), s_churn=20)(
        lambda x, sigma, c: gaussian.denoise(x, sigma), torch.randn(20_000, 1), draws=StepDraws(1)
    )
    assert x.std().item() == pytest.approx(0.5, rel=0.03)


@pytest.mark.parametrize("sampler", OURS, ids=title)
def test_every_estimate_is_clipped_where_that_is_asked_for(sampler):
    def f(x, sigma, c):
        return 3 * torch.tanh(x)

    z, draws = torch.randn(6, 2, dtype=torch.float64), ImageDraws(0, range(6))
    inside = sampler(lambda x, sigma, c: f(x, sigma, c).clamp(-1, 1), z, draws=draws.fork())
    assert torch.equal(replace(sampler, clip=True)(f, z, draws=draws.fork()), inside)
    assert not torch.equal(sampler(f, z, draws=draws.fork()), inside)


def test_another_preconditioner_than_that_of_training():
    z, other = torch.randn(4, 2), Boundary(sigma_min=0.003)  # as ECT's evaluation has it
    for role, kind in ((Denoiser, Euler), (Consistency, MultiStep)):
        f, draws = MAPS[role], ImageDraws(0, range(4))
        expected = kind([80.0, 0.5])(role(f.net, other), z, draws=draws.fork())
        sampler = kind([80.0, 0.5], precond=other)
        assert torch.equal(sampler(f, z, draws=draws.fork()), expected)
        assert torch.allclose(
            sampler(Portions(f, 3, lambda n: None), z, draws=draws.fork()), expected, atol=1e-5
        )
        assert not torch.equal(kind([80.0, 0.5])(f, z, draws=draws.fork()), expected)
    with pytest.raises(UserError, match="precond needs a network"):
        Euler([80.0], precond=other)(ring, z)


# --- roles ------------------------------------------------------------------------------------------------


def test_a_map_of_another_role_is_refused():
    z = torch.randn(2, 2)
    with pytest.raises(UserError, match=r"heun19 samples from a denoiser, .* use samplers=consistency"):
        Heun(TEN)(MAPS[Consistency], z)
    with pytest.raises(
        UserError, match=r"1step samples from a consistency function, .* use samplers=teacher"
    ):
        OneStep([80.0])(MAPS[Denoiser], z)
    with pytest.raises(UserError, match="1jump samples from a flow map"):
        Jumps([80.0])(Portions(MAPS[Denoiser], 2, lambda n: None), z)
    with pytest.raises(UserError, match="trained without s = t"):
        Heun(TEN)(FlowMap(Net(times=2), EDM(), diagonal=False), z)


def test_a_flow_map_is_sampled_as_what_it_holds():
    z, f = torch.randn(3, 2), MAPS[FlowMap]
    assert torch.equal(Heun(TEN)(f, z), Heun(TEN)(f.diagonal, z))
    assert torch.equal(OneStep([80.0])(f, z), OneStep([80.0])(f.at_zero, z))


def test_jumps_go_along_the_map():
    levels, f = [80.0, 5.0, 0.8], MAPS[FlowMap]
    x = 80.0 * (z := torch.randn(4, 2))
    with torch.no_grad():
        for t, s in pairwise([*levels, 0.0]):
            x = f.jump(x, torch.full((4,), t).double(), torch.full((4,), s).double())
    assert torch.allclose(Jumps(levels)(f, z), x, atol=2e-5)


def test_jumps_of_the_exact_map_keep_the_distribution_for_every_gamma():
    gaussian = Mixture.gaussian(0.5, (1,))

    def f(x, t, s, c):  # the data end of the line from x at t to X at s
        t, s = expand(t, x), expand(s, x)
        end = gaussian.solve(x, t.flatten(), s.flatten())
        return (end - s / t * x) / (1 - s / t)

    for gamma in (0.0, 0.5, 1.0):
        z = torch.randn(20_000, 1, dtype=torch.float64)
        x = Jumps([80.0, 2.0, 0.3], gamma=gamma)(f, z, draws=StepDraws(1))
        assert x.std().item() == pytest.approx(0.5, rel=0.03)


def test_with_gamma_1_jumps_are_multistep_sampling():
    z, f, levels = torch.randn(4, 2, dtype=torch.float64), MAPS[FlowMap].double(), [80.0, 2.0, 0.3]
    multi = MultiStep(levels, sigma_min=0.0)(f, z, draws=ImageDraws(0, range(4)))
    jumps = Jumps(levels, gamma=1.0)(f, z, draws=ImageDraws(0, range(4)))
    f.float()
    assert torch.allclose(jumps, multi, atol=1e-12)


# --- programs ---------------------------------------------------------------------------------------------


class Given:
    """Noise that is known: z [B, K, ...]."""

    def __init__(self, z):
        self.left = list(z.unbind(1))

    def normal(self, x):
        return self.left.pop(0)


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("sampler", [*OURS, *JUMPS], ids=title)
def test_a_program_makes_the_samples_of_its_sampler(sampler, clip):
    sampler, f = replace(sampler, clip=clip), MAPS[sampler.role].double()
    program = sampler.program(f).double()
    z = torch.randn(5, program.noises, 2, dtype=torch.float64)
    draws = Given(z)
    expected = sampler(f, draws.normal(z), draws=draws)
    assert draws.left == []  # all noise is an input, and no more than is needed
    with torch.no_grad():
        made = program(z)
    f.float()
    assert torch.allclose(made, expected, atol=1e-4)  # its coefficients are float32


def test_programs_of_multistep_sampling_are_what_they_were():
    f, levels = MAPS[Consistency], [80.0, 0.8, 0.001]
    program, z = MultiStep(levels).program(f), torch.randn(3, 3, 2)
    taus, added = torch.tensor([80.0, 0.8, 0.002]).double(), [80.0, (0.8**2 - 0.002**2) ** 0.5, 0.0]
    skip, out, inp, noise = (values.float() for values in f.precond(taus))
    x = torch.zeros(3, 2)
    with torch.no_grad():
        for k in range(3):
            x = x + torch.tensor(added).float()[k] * z[:, k]
            x = skip[k] * x + out[k] * f.net(inp[k] * x, noise[k].expand(3))
        assert torch.equal(program(z), x)
        one = OneStep([80.0]).program(f)
        assert torch.equal(one(z[:, :1]), skip[0] * (80.0 * z[:, 0]) + out[0] * f.net(inp[0] * (80.0 * z[:, 0]), noise[0].expand(3)))  # fmt: skip  # noqa: E501


def test_states_of_programs_are_made_of_few_terms():
    for sampler, most in ((Euler(TEN), 2), (DPMSolver(TEN), 3), (Heun(TEN), 3), (DDIM(TEN, eta=0.5), 3)):
        rows = sampler.program(MAPS[Denoiser]).rows
        assert len(rows) == sampler.nfe + 1
        assert all(bool(row.state) + len(row.noises) + len(row.estimates) <= most for row in rows)


def test_options_are_fields():
    for sampler in (*OURS, *JUMPS):
        assert sampler.options.keys() == {field.name for field in fields(sampler)} - {"sigmas"}
        assert type(sampler)(sampler.sigmas, **sampler.options) == sampler


def test_conditions_reach_the_network():
    seen, c = [], Condition(torch.arange(3))
    for sampler in (OneStep([80.0]), Euler(TEN), Heun(TEN), DPMSolver(TEN), UniPC(TEN)):
        sampler(lambda x, sigma, c: seen.append(c) or x * 0, torch.randn(3, 2), c)
    assert all(each is c for each in seen)
