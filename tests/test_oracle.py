import math

import pytest
import torch

import consistency.truth.oracle as oracle
from consistency.errors import UserError
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.ode import Euler, Heun
from consistency.truth.oracle import Mixture
from tests.reference.mixtures import (
    GAUSSIAN_END,
    TWO_MODES_END,
    TWO_MODES_HEUN_18,
    gaussian_consistency,
    mixture_denoiser,
    two_modes_denoiser,
)

RING = Mixture.ring()
TWO_MODES = Mixture(torch.ones(2), torch.tensor([[-1.0], [1.0]]), 0.1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def sigmas(n, low=0.002, high=80.0):
    return torch.logspace(math.log10(low), math.log10(high), n, dtype=torch.float64)


def column(value):
    return torch.tensor([[value]], dtype=torch.float64)


def noisy(density, sigma, seed=0):
    clean = density.sample(len(sigma), generator(seed))
    noise = torch.randn(clean.shape, generator=generator(seed + 1), dtype=torch.float64)
    return clean, clean + sigma.reshape(-1, *[1] * (clean.ndim - 1)) * noise


def doubled(v, shape=(1,)):
    """N(0, v²) disguised as a mixture, so that the ODE is integrated."""
    return Mixture(torch.tensor([0.3, 0.7]), torch.zeros(2, *shape), v)


class TestDensities:
    def test_ring_has_std_one_half_in_each_coordinate(self):
        for std in (0.0, 0.1, 0.2):
            x = Mixture.ring(std=std).sample(200_000, generator())
            assert torch.allclose(x.std(0), torch.tensor(0.5).double(), atol=0.003)
            assert x.mean(0).abs().max() < 0.005

    def test_ring_samples_lie_around_the_modes(self):
        x = Mixture.ring(modes=5, std=0.01).sample(1000, generator())
        assert x.norm(dim=1).sub(math.sqrt(2 * (0.25 - 1e-4))).abs().max() < 0.05
        turns = torch.atan2(x[:, 1], x[:, 0]) / (2 * math.pi) * 5
        assert (turns - turns.round()).abs().max() < 0.1
        assert len(set(turns.round().int().remainder(5).tolist())) == 5

    def test_samples_follow_the_weights_and_the_generator(self):
        density = Mixture(torch.tensor([1.0, 3.0]), torch.tensor([[0.0], [1.0]]), 0.0)
        x = density.sample(40_000, generator())
        assert x.dtype == torch.float64
        assert x.mean().item() == pytest.approx(0.75, abs=0.01)
        assert torch.equal(x, density.sample(40_000, generator()))

    def test_finite_samples_are_the_data(self):
        data = torch.rand(7, 1, 2, 2, generator=generator())
        x = Mixture.finite(data).sample(50, generator())
        assert x.shape == (50, 1, 2, 2)
        assert all((row == data.double()).flatten(1).all(1).any() for row in x)

    def test_impossible_densities_are_refused(self):
        with pytest.raises(UserError, match="ring"):
            Mixture.ring(std=0.5)
        with pytest.raises(UserError, match="negative"):
            Mixture.gaussian(-1.0)


class TestDenoiser:
    @pytest.mark.parametrize("sigma", [0.002, 0.1, 0.7, 3.0, 80.0])
    @pytest.mark.parametrize("x", [-1.3, -0.02, 0.0, 0.4, 2.5])
    def test_two_modes_equal_the_hyperbolic_tangent(self, x, sigma):
        D = TWO_MODES(column(x), torch.tensor([sigma], dtype=torch.float64)).item()
        assert pytest.approx(two_modes_denoiser(x, sigma), abs=1e-12) == D

    @pytest.mark.parametrize("sigma", [0.2, 0.5, 2.0])
    def test_ring_equals_the_sum_over_densities(self, sigma):
        x = [0.31, -0.45]
        D = RING(torch.tensor([x], dtype=torch.float64), torch.tensor([sigma], dtype=torch.float64))
        expected = mixture_denoiser(x, sigma, RING.means.tolist(), 0.1)
        assert D[0].tolist() == pytest.approx(expected, abs=1e-12)

    def test_gaussian_shrinks_images(self):
        x, sigma = torch.randn(3, 1, 4, 4, generator=generator()).double(), sigmas(3)
        shrink = (0.25 / (0.25 + sigma**2)).reshape(3, 1, 1, 1)
        assert torch.allclose(Mixture.gaussian(0.5, (1, 4, 4))(x, sigma), shrink * x, atol=1e-13)

    @pytest.mark.parametrize("sigma", [0.05, 0.4, 2.0])
    def test_no_function_of_x_predicts_the_residual(self, sigma):
        """D is the regression: x_0 - D(x_σ, σ) is uncorrelated with everything computed from x_σ."""
        level = torch.full((100_000,), sigma, dtype=torch.float64)
        clean, x = noisy(RING, level)
        D = RING(x, level)
        for g in (torch.ones_like(x), x, D, torch.sin(3 * x), x.flip(1) ** 2):
            product = ((clean - D) * g).flatten()
            assert product.mean().abs() < 4 * product.std() / math.sqrt(len(product))

    def test_perturbed_denoiser_has_a_larger_error(self):
        level = torch.full((50_000,), 0.4, dtype=torch.float64)
        clean, x = noisy(RING, level)
        D = RING(x, level)
        best = (clean - D).square().mean()
        others = (1.1 * D, 0.9 * D, D + 0.1, RING(x, 1.3 * level), RING(x, level / 1.3))
        assert all((clean - other).square().mean() > best for other in others)

    def test_finite_data_snaps_to_the_nearest_point(self):
        data = torch.randn(20, 3, generator=generator(5)).double()
        x = torch.randn(40, 3, generator=generator(6)).double()
        nearest = data[torch.cdist(x, data).argmin(1)]
        for sigma in (1e-3, 1e-9, 0.0):
            D = Mixture.finite(data)(x, torch.full((40,), sigma))
            assert torch.allclose(D, nearest, atol=1e-12)

    def test_finite_data_averages_out_at_large_noise(self):
        data = torch.randn(20, 3, generator=generator(5)).double()
        D = Mixture.finite(data)(data, torch.full((20,), 1e5))
        assert torch.allclose(D, data.mean(0).expand(20, 3), atol=1e-8)

    def test_no_noise_leaves_a_smooth_density_alone(self):
        x = torch.randn(9, 2, generator=generator()).double()
        assert torch.allclose(RING(x, torch.zeros(9)), x, atol=1e-14)

    def test_blocks_do_not_change_the_result(self, monkeypatch):
        _, x = noisy(RING, sigmas(101))
        whole = RING(x, sigmas(101))
        monkeypatch.setattr(oracle, "BLOCK", 8 * 7)
        assert torch.allclose(RING(x, sigmas(101)), whole, atol=1e-15)
        monkeypatch.setattr(oracle, "BLOCK", 1)
        assert torch.allclose(RING(x, sigmas(101)), whole, atol=1e-15)

    def test_speaks_the_protocol(self):
        x = torch.randn(4, 2, generator=generator())
        D = RING(x, torch.full((4,), 0.3, dtype=torch.float64), torch.zeros(4, dtype=torch.long))
        assert D.dtype == torch.float32
        wide = RING(x.double(), torch.full((4,), 0.3, dtype=torch.float64))
        assert torch.equal(D, wide.float())

    def test_forward_mode_derivative_equals_differences(self):
        x, sigma = torch.tensor([[0.3, -0.2]]).double(), torch.tensor([0.4]).double()
        dx, ds, h = torch.tensor([[0.5, 1.0]]).double(), torch.tensor([0.7]).double(), 1e-6
        _, tangent = torch.func.jvp(lambda a, b: RING(a, b), (x, sigma), (dx, ds))
        difference = (RING(x + h * dx, sigma + h * ds) - RING(x - h * dx, sigma - h * ds)) / (2 * h)
        assert torch.allclose(tangent, difference, atol=1e-8)


class TestTrajectories:
    @pytest.mark.parametrize("v", GAUSSIAN_END)
    def test_gaussian_ends_where_the_formula_says(self, v):
        start, end = torch.tensor([80.0]), torch.tensor([0.0])
        closed = Mixture.gaussian(v, (1,)).solve(column(80.0), start, end).item()
        integrated = doubled(v).solve(column(80.0), start, end).item()
        assert closed == pytest.approx(GAUSSIAN_END[v], abs=6e-10)
        assert integrated == pytest.approx(closed, abs=1e-6)

    def test_two_modes_end_where_a_long_heun_run_ends(self):
        low = torch.tensor([0.002], dtype=torch.float64)
        x = TWO_MODES.solve(column(24.0), torch.tensor([80.0]), low)
        assert TWO_MODES(x, low).item() == pytest.approx(TWO_MODES_END, abs=2e-7)

    def test_samplers_run_on_it(self):
        ends = [kind(karras_sigmas(18))(TWO_MODES, column(0.3)).item() for kind in (Heun, Euler)]
        assert ends[0] == pytest.approx(TWO_MODES_HEUN_18, abs=1e-8)
        assert abs(ends[1] - TWO_MODES_END) > 0.01

    def test_two_hundred_steps_are_enough(self):
        start = torch.full((500,), 80.0, dtype=torch.float64)
        _, x = noisy(RING, start)
        for level in (0.002, 0.0):
            end = torch.full_like(start, level)
            error = RING.solve(x, start, end) - RING.solve(x, start, end, steps=800)
            assert error.square().mean().sqrt() < 2e-7
            assert error.abs().max() < 1e-6

    def test_error_falls_by_sixteen_when_steps_double(self):
        start, end = torch.tensor([80.0]), torch.tensor([0.002])
        exact = gaussian_consistency(80.0, 80.0, 0.5, 0.002)
        errors = [doubled(0.5).solve(column(80.0), start, end, steps).item() - exact for steps in (50, 100)]
        assert errors[0] / errors[1] == pytest.approx(16, rel=0.25)

    def test_going_back_up_returns_to_the_start(self):
        start, end = torch.full((64,), 2.0), torch.full((64,), 0.05)
        _, x = noisy(RING, start.double())
        down = RING.solve(x, start, end)
        assert (down - x).abs().max() > 1
        assert torch.allclose(RING.solve(down, end, start), x, atol=1e-5)

    def test_levels_may_differ_between_samples(self):
        start, end = torch.tensor([80.0, 3.0, 0.5]), torch.tensor([1.0, 0.0, 0.5])
        _, x = noisy(RING, start.double())
        together = RING.solve(x, start, end)
        alone = [RING.solve(x[i : i + 1], start[i : i + 1], end[i : i + 1]) for i in range(3)]
        assert torch.allclose(together, torch.cat(alone), atol=1e-12)
        assert torch.equal(together[2], x[2])

    def test_small_levels_reach_zero_too(self):
        x, start = torch.tensor([[0.9, 0.1]]).double(), torch.tensor([2e-4], dtype=torch.float64)
        zero = torch.zeros(1)
        assert torch.allclose(RING.solve(RING.solve(x, zero + 1e-6, start), start, zero), x, atol=1e-10)
        assert torch.equal(RING.solve(x, zero, zero), x)

    def test_images_of_a_finite_set_end_on_the_set(self):
        data = torch.rand(10, 1, 3, 3, generator=generator())
        density = Mixture.finite(data)
        start = torch.full((30,), 80.0)
        _, x = noisy(density, start.double())
        end = density.solve(x, start, torch.zeros(30))
        assert torch.cdist(end.flatten(1), data.double().flatten(1)).amin(1).max() < 1e-9

    def test_end_of_trajectories_follows_the_density(self):
        start = torch.full((20_000,), 80.0, dtype=torch.float64)
        _, x = noisy(RING, start)
        end = RING.solve(x, start, torch.zeros_like(start), steps=60)
        radius = end.norm(dim=1)
        clean = RING.sample(20_000, generator(9)).norm(dim=1)
        assert torch.allclose(end.std(0), torch.tensor(0.5).double(), atol=0.01)
        assert torch.allclose(radius.std(), clean.std(), rtol=0.05)


class TestConsistency:
    @pytest.mark.parametrize("sigma", [0.002, 0.5, 80.0])
    def test_gaussian_equals_the_formula(self, sigma):
        f = Mixture.gaussian(0.5, (1,)).consistency(column(1.7), torch.tensor([sigma], dtype=torch.float64))
        assert f.item() == pytest.approx(gaussian_consistency(1.7, sigma, 0.5, 0.002), abs=1e-14)

    def test_gaussian_off_the_origin(self):
        density = Mixture(torch.ones(1), torch.tensor([[2.0]]), 0.5)
        f = density.consistency(column(3.0), torch.tensor([1.0])).item()
        assert f == pytest.approx(2 + gaussian_consistency(1.0, 1.0, 0.5, 0.002), abs=1e-12)

    @pytest.mark.parametrize("density", [RING, Mixture.gaussian(0.5)], ids=["ring", "gaussian"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_boundary_holds_bitwise(self, density, dtype):
        x = torch.randn(50, 2, generator=generator(), dtype=dtype)
        f = density.consistency(x, torch.full((50,), 0.002, dtype=torch.float64))
        assert f.dtype == dtype
        assert torch.equal(f, x)

    def test_is_constant_along_a_trajectory(self):
        start = torch.full((100,), 80.0, dtype=torch.float64)
        _, x = noisy(RING, start)
        whole = RING.consistency(x, start)
        for level in (20.0, 1.0, 0.3, 0.02):
            t = torch.full_like(start, level)
            assert (RING.consistency(RING.solve(x, start, t), t) - whole).abs().max() < 1e-6

    def test_tangent_vanishes(self):
        """df/dσ along the trajectory is 0: the equation that continuous training solves."""
        x, sigma = column(0.37), torch.tensor([0.6], dtype=torch.float64)
        velocity = (x - TWO_MODES(x, sigma)) / sigma
        _, tangent = torch.func.jvp(TWO_MODES.consistency, (x, sigma), (velocity, torch.ones_like(sigma)))
        _, still = torch.func.jvp(
            TWO_MODES.consistency, (x, sigma), (torch.zeros_like(x), torch.ones_like(sigma))
        )
        assert tangent.abs().item() < 1e-6
        assert still.abs().item() > 0.1
