"""Curricula, grids, noise laws, pairs, decays and rates against the papers' numbers."""

import math

import pytest
import torch

from consistency.errors import UserError
from consistency.model.coordinates import DDPM, Linear
from consistency.schedule import decay, rate
from consistency.schedule.curriculum import Constant, Doubling, SquareRoot, Stages
from consistency.schedule.draws import StepDraws
from consistency.schedule.noise import Levels, LogNormal, UniformCells, UniformTime
from consistency.schedule.pairs import GridPairs, MappedPairs
from consistency.schedule.sigma import karras_grid
from tests.reference import golden

CPU = torch.device("cpu")


def close(actual, expected, rel=1e-6):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    assert torch.as_tensor(actual).tolist() == pytest.approx(expected.tolist(), rel=rel)


@pytest.mark.parametrize("K", [800_000, 400_000])
def test_square_root_curriculum_is_the_papers(K):
    N = SquareRoot(s0=2, s1=150, K=K)
    assert {share: N(round(share * K)) for share in golden.SQUARE_ROOT} == golden.SQUARE_ROOT
    assert N(1) == 3
    assert N(10 * K) == 151


def test_square_root_curriculum_of_few_steps_and_of_imagenet():
    N = SquareRoot(s0=2, s1=150, K=10)
    assert [N(k) for k in range(11)] == [2, 48, 68, 83, 96, 107, 117, 127, 136, 144, 151]
    N = SquareRoot(s0=2, s1=200, K=1000)
    assert [N(k) for k in (0, 10, 100, 500, 1000)] == [2, 21, 64, 143, 201]


def test_square_root_agrees_with_the_formula_in_floats_off_perfect_squares():
    N = SquareRoot(s0=2, s1=150, K=12_345)
    for k in range(1, 12_345, 371):
        assert N(k) == math.ceil(math.sqrt(k / 12_345 * (151**2 - 4) + 4) - 1) + 1


@pytest.mark.parametrize(
    ("K", "stage"), [(400_000, 50_000), (800_000, 100_000), (1000, 125), (100, 12), (50, 6), (8, 1)]
)
def test_doubling_curriculum_is_the_papers(K, stage):
    N = Doubling(s0=10, s1=1280, K=K)
    assert [N(i * stage) for i in range(8)] == golden.DOUBLING
    assert [N(i * stage - 1) for i in range(1, 8)] == golden.DOUBLING[:-1]
    assert N(10 * K) == 1281


def test_doubling_stops_at_s1_when_it_is_no_power():
    N = Doubling(s0=10, s1=1000, K=7640)
    assert N(0) == 11
    assert N(7640) == 1001


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: Doubling(K=7), "curriculum.K=7"),
        (lambda: Doubling(s0=10, s1=5), "curriculum.s1=5"),
        (lambda: Doubling(s0=0), "curriculum.s0=0"),
        (lambda: SquareRoot(s0=1), "curriculum.s0=1"),
        (lambda: SquareRoot(K=0), "curriculum.K=0"),
        (lambda: Constant(N=1), "curriculum.N=1"),
        (lambda: LogNormal(std=0), "noise.std=0"),
        (lambda: karras_grid(5, sigma_min=-0.1), r"sigma\.min=-0\.1"),
        (lambda: GridPairs(Constant(), LogNormal(), sigma_min=80.0, sigma_max=0.002), r"sigma\.max=0\.002"),
        (lambda: decay.Constant(1.0), "mu=1.0"),
        (lambda: decay.HalfLife(images=0, batch=1), "images=0"),
    ],
)
def test_impossible_schedules_are_refused_by_key(make, key):
    with pytest.raises(UserError, match=key):
        make()


def test_karras_grid():
    close(karras_grid(18).flip(0), golden.KARRAS_18)
    close(karras_grid(11), golden.KARRAS_11, rel=1e-9)
    grid = karras_grid(1281)
    assert grid[0] == 0.002  # bitwise: the boundary condition lies here
    assert grid[-1] == 80
    close(grid[1], 0.0020390858)


def test_float64_matters_for_the_gaps_and_bf16_would_merge_levels():  # trap 9
    gaps = karras_grid(1281).diff()
    low = torch.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 1281, dtype=torch.float32) ** 7
    assert ((low.diff().double() - gaps) / gaps).abs().max() > 5e-5
    assert len(karras_grid(1281).bfloat16().unique()) < 1281 - 60
    t, r = GridPairs(Constant(1281), LogNormal())(4096, 0, StepDraws(0), CPU)
    assert t.dtype == r.dtype == torch.float64
    assert len(t.unique()) > 700


def test_discretised_lognormal_mass():
    mass = LogNormal(-1.1, 2.0).mass(karras_grid(11))
    close(mass, golden.MASS_11, rel=1e-7)
    assert mass.sum().item() == pytest.approx(1, abs=1e-15)


def test_weights_and_their_mean_at_every_stage():
    close(1 / karras_grid(11).diff(), golden.INVERSE_GAPS_11, rel=1e-7)
    for N, expected in zip(golden.DOUBLING, golden.MEAN_WEIGHT, strict=True):
        grid = karras_grid(N)
        close((LogNormal(-1.1, 2.0).mass(grid) / grid.diff()).sum(), expected, rel=1e-4)
    gaps = karras_grid(1281).diff()
    close(1 / gaps[0], 25584.7)
    close(1 / gaps[-1], 2.93603)


def test_uniform_cells():
    close(UniformCells().mass(karras_grid(5)), [0.25] * 4)
    sigma = UniformCells().sample(20_000, StepDraws(0), CPU)
    shares = torch.histc(sigma ** (1 / 7), 10, 0.002 ** (1 / 7), 80 ** (1 / 7)) / 20_000
    assert (shares - 0.1).abs().max() < 0.01


def test_lognormal_samples_follow_the_law():
    ln = LogNormal(-1.2, 1.2).sample(100_000, StepDraws(0), CPU).log()
    assert ln.mean().item() == pytest.approx(-1.2, abs=0.02)
    assert ln.std().item() == pytest.approx(1.2, abs=0.02)
    assert ln.dtype == torch.float64


def test_pairs_are_neighbours_and_the_student_is_the_noisier():  # trap 3
    pairs = GridPairs(Doubling(10, 160, 1000), LogNormal())
    grid = karras_grid(11)
    t, r = pairs(20_000, 0, StepDraws(1), CPU)
    i = torch.searchsorted(grid, r)
    assert torch.equal(grid[i], r)
    assert torch.equal(grid[i + 1], t)
    counts = torch.bincount(i, minlength=10) / 20_000
    assert (counts - torch.tensor(golden.MASS_11)).abs().max() < 0.012
    assert r.min() == 0.002  # the cleanest cell is drawn too


def test_pairs_follow_the_step_they_are_asked_for():
    pairs = GridPairs(Doubling(10, 160, 1000), LogNormal())
    gap = {k: (lambda t, r: (t - r).mean().item())(*pairs(5000, k, StepDraws(1), CPU)) for k in (0, 999)}
    assert gap[999] < gap[0] / 8
    assert pairs.progress(999) == {"N": 161}


def test_mass_of_t_on_bins_is_that_of_the_draws():
    pairs = GridPairs(Doubling(10, 160, 1000), LogNormal())
    edges = torch.logspace(math.log10(0.00199), math.log10(80.1), 9, dtype=torch.float64)
    for k in (0, 500):
        t, _ = pairs(50_000, k, StepDraws(k), CPU)
        drawn = torch.histogram(t, edges).hist / 50_000
        assert (drawn - pairs.mass(edges, k)).abs().max() < 0.01
        assert pairs.mass(edges, k).sum().item() == pytest.approx(1)


def test_target_decay_is_the_papers_and_not_the_codes():  # trap 6
    mu = decay.Adaptive(SquareRoot(2, 150, 800_000), s0=2, mu0=0.9)
    for share, expected in golden.PAPER_MU.items():
        assert mu(round(share * 800_000)) == pytest.approx(expected, abs=1e-6)
    assert mu(0) == pytest.approx(0.9)  # the published code starts from 0.81
    assert decay.Adaptive(Constant(18), mu0=0.0)(0) == 0


def test_half_life_counts_images():  # trap 11
    assert decay.HalfLife(500_000, 512, None)(0) == pytest.approx(0.99929047, abs=1e-8)
    assert decay.HalfLife(50e6, 4096, None)(0) == pytest.approx(0.99994322, abs=1e-8)
    ramped = decay.HalfLife(500_000, 512, 0.05)
    assert ramped(0) < 1e-5
    assert ramped(10**6) == pytest.approx(0.99929047, abs=1e-8)


def test_a_constant_decay_is_ramped_up_on_request_only():
    constant, ramped = decay.Constant(0.999), decay.Constant(0.999, rampup=0.25)
    assert [constant(k) for k in (0, 100, 10**6)] == [0.999] * 3
    assert [ramped(k) for k in (0, 3, 99)] == [
        0.5**4,
        0.5,
        0.5 ** (1 / 25),
    ]  # half-lives: (k + 1) / 4
    assert math.prod(constant(k) for k in range(100)) == pytest.approx(0.905, abs=1e-3)  # of the start
    assert math.prod(ramped(k) for k in range(100)) < 1e-3


@pytest.mark.parametrize(
    ("mu", "step"),
    [(0.999, 2_771), (0.9993, 3_960), (0.9999, 27_724), (0.99993, 39_606)],
)
def test_a_ramped_decay_is_the_constant_to_the_bit_from_a_step_on(mu, step):
    ramped = decay.Constant(mu, rampup=0.25)
    assert step == pytest.approx(math.log(0.5) / math.log(mu) / 0.25, abs=2)
    assert ramped(step - 10) < mu
    assert [ramped(k) for k in (step + 1, 10 * step)] == [mu, mu]


def test_decays_at_the_ends_of_their_ranges():
    assert decay.Constant(0.0, rampup=0.25)(5) == 0.0
    assert decay.Constant(0.999, rampup=1e-9)(0) == 0.0
    with pytest.raises(UserError, match="rampup=0"):
        decay.Constant(0.999, rampup=0)


def test_rates():
    assert [rate.Flat()(k) for k in (0, 10)] == [1, 1]
    assert [rate.Flat(warmup=4)(k) for k in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    cosine = rate.Cosine(K=110, warmup=10)
    assert cosine(9) == 1
    assert cosine(60) == pytest.approx(0.5)
    assert cosine(110) == pytest.approx(0)


# --- laws in other coordinates ----------------------------------------------------------------------------


def drawn(law, edges, n=200_000):
    sigma = law.sample(n, StepDraws(0), CPU)
    return sigma, torch.histogram(sigma, edges).hist / n


def test_levels_are_those_of_the_chain_and_all_alike():
    law = Levels(DDPM.linear())
    sigma, _ = drawn(law, torch.tensor([0.0, 200]).double())
    assert torch.isin(sigma, DDPM.linear().levels).all()
    assert len(sigma.unique()) == 1000
    edges = torch.tensor([0.005, 0.1, 1, 10, 200]).double()
    assert torch.allclose(drawn(law, edges)[1], law.mass(edges), atol=5e-3)
    assert law.mass(edges).sum().item() == pytest.approx(1)


def test_a_uniform_time_of_a_flow_is_uniform():
    law = UniformTime(Linear(), 0.002, 80)
    edges = torch.tensor([0.002, 0.2, 1, 5, 80]).double()
    sigma, found = drawn(law, edges)
    u = sigma / (1 + sigma)
    assert torch.allclose(u.sort().values, torch.linspace(0.001996, 0.987654, len(u)).double(), atol=5e-3)
    assert torch.allclose(found, law.mass(edges), atol=5e-3)


def test_a_logit_normal_time_is_a_log_normal_sigma():
    """u of flow matching with logit u ~ N(m, s²) is σ with ln σ ~ N(m, s²), as ln(u/(1 - u)) = ln σ."""
    sigma = LogNormal(0.0, 1.0).sample(100_000, StepDraws(0), CPU)
    logit = torch.logit(Linear().time(sigma))
    assert logit.mean().item() == pytest.approx(0, abs=0.02)
    assert logit.std().item() == pytest.approx(1, abs=0.02)


# --- shrinking pairs --------------------------------------------------------------------------------------


def test_mapped_pairs_are_the_published_ones():
    t = torch.tensor([0.1, 1, 80]).double()
    pairs = MappedPairs(Stages(8, 200_000), LogNormal())
    for stage, ratio in golden.MAPPED.items():
        assert pairs.ratio(t, stage).tolist() == pytest.approx(ratio, abs=1e-6)
    ln7 = torch.tensor([math.log(7) - 1e-6, math.log(7) + 1e-6]).double()
    assert (pairs.ratio(ln7, 0) > 0).tolist() == [False, True]  # in the first stage r = 0 for t <= ln 7


def test_mapped_pairs_keep_r_below_t_and_never_below_zero():
    pairs = MappedPairs(Stages(8, 80), LogNormal())
    for k in (0, 40, 79, 10_000):
        t, r = pairs(4096, k, StepDraws(0, k), CPU)
        assert ((r >= 0) & (r < t)).all()
    assert pairs.sigma_min == 0
    edges = torch.tensor([0.01, 0.1, 1, 10]).double()
    assert torch.equal(pairs.mass(edges, 0), LogNormal().mass(edges))


def test_stages_are_equally_long_and_the_last_one_stays():
    stages = Stages(8, 200_000)  # 2406.14548: one every 25,000 steps
    assert [stages(k) for k in (0, 24_999, 25_000, 199_999, 200_000, 10**9)] == [0, 0, 1, 7, 7, 7]
    with pytest.raises(UserError, match=r"curriculum\.S=9"):
        Stages(9, 8)
    with pytest.raises(UserError, match=r"pairs\.q=1"):
        MappedPairs(stages, LogNormal(), q=1)
