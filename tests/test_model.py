"""Preconditioners and the denoiser: the boundary, the golden coefficients, the dtype."""

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.model.condition import NONE
from consistency.model.coordinates import DDPM, Linear, Trigonometric
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM, Boundary, Epsilon, Jump, Velocity
from consistency.sampling.samplers import OneStep
from consistency.tensor import expand, perturb
from tests.reference import golden


class Net(nn.Module):
    """A network that is anything but small."""

    def forward(self, x, noise, c=NONE):
        return torch.sin(37 * x) * 1e4 + expand(noise, x)


def coefficients(precond, sigma):
    return [c.item() for c in precond(torch.tensor([sigma], dtype=torch.float64))]


def test_boundary_coefficients():
    for sigma, (skip, out) in golden.BOUNDARY.items():
        found = coefficients(Boundary(), sigma)
        assert found[1] == pytest.approx(out, rel=1e-5)
        if sigma < 80:
            assert found[0] == pytest.approx(skip, rel=1e-5)
    assert coefficients(Boundary(), 0.002)[:2] == [1, 0]
    assert coefficients(EDM(), 0.0)[:2] == [1, 0]
    assert coefficients(EDM(), 80.0)[:2] == pytest.approx(golden.EDM_80, rel=1e-5)
    assert coefficients(EDM(), 0.002)[:2] == pytest.approx([0.999984, 0.001999984], rel=1e-6)


def test_input_and_noise_scaling():
    sigma = torch.tensor([0.002, 0.5, 80.0], dtype=torch.float64)
    for precond in (EDM(), Boundary()):
        c = precond(sigma)
        assert torch.allclose(c.inp, (sigma**2 + 0.25).rsqrt(), rtol=1e-14)  # c_in has the root (trap 5)
        assert torch.allclose(c.noise, sigma.log() / 4, rtol=1e-14)
        assert all(v.dtype == torch.float64 for v in c)


@pytest.mark.parametrize("shape", [(5, 2), (5, 3, 4, 4)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_boundary_condition_holds_bitwise(shape, dtype):
    x = torch.randn(shape, dtype=dtype)
    f = Consistency(Net(), Boundary(sigma_min=0.002))
    assert torch.equal(f(x, torch.full((5,), 0.002, dtype=torch.float64)), x)
    D = Denoiser(Net(), EDM())
    assert torch.equal(D(x, torch.zeros(5, dtype=torch.float64)), x)


def test_unit_variance_inside_and_out():
    """c_in makes the input, and c_out the target of F, unit variance (2206.00364, app. B.6)."""
    torch.manual_seed(0)
    x, z = 0.5 * torch.randn(200_000, 1).double(), torch.randn(200_000, 1).double()
    for sigma in (0.01, 0.5, 5.0):
        s = torch.full((len(x),), sigma)
        c = EDM()(s)
        noisy = perturb(x, z, s)
        assert (expand(c.inp, x) * noisy).std().item() == pytest.approx(1, abs=0.01)
        assert ((x - expand(c.skip, x) * noisy) / expand(c.out, x)).std().item() == pytest.approx(1, abs=0.01)


def test_the_output_has_the_dtype_of_x_whatever_the_network_computes_in():
    class Half(nn.Module):
        def forward(self, x, noise, c=NONE):
            assert noise.dtype == torch.float32
            return x.bfloat16()

    x = torch.randn(3, 2)
    assert Denoiser(Half(), EDM())(x, torch.ones(3, dtype=torch.float64)).dtype == torch.float32


@pytest.mark.parametrize(
    "make", [lambda: EDM(0.0), lambda: Boundary(sigma_data=-1), lambda: Boundary(sigma_min=-0.1)]
)
def test_impossible_values_are_refused(make):
    with pytest.raises(UserError, match="must be greater than 0"):
        make()


LEVELS = (
    EDM,
    Boundary,
    lambda value: Boundary(0.5, value),
    lambda value: Jump(EDM(), value),
    lambda value: Trigonometric(unit=value),
)


@pytest.mark.parametrize("value", [1e-200, 1e-10, 2**62, 1e308])
@pytest.mark.parametrize("make", LEVELS)
def test_values_whose_squares_are_beyond_float64_are_refused(make, value):
    with pytest.raises(UserError, match=r"(data|min|unit)=.* must be at least 1e-09 and at most 1000000"):
        make(value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "precond",
    [EDM(), Boundary(), Jump(EDM()), Velocity(Linear()), Epsilon(DDPM.linear())],
    ids=lambda p: type(p).__name__,
)
def test_one_level_for_all_is_the_same_function(precond, dtype):
    f = Denoiser(Net(), precond)
    x = torch.randn(5, 3, dtype=dtype)
    for sigma in (0.002, 0.8, 80.0, 0.8):  # the last from what is kept
        assert torch.equal(f(x, sigma), f(x, torch.full((5,), sigma, dtype=torch.float64)))


def test_coefficients_of_one_level_are_evaluated_once():
    asked = []

    def precond(sigma):
        asked.append(sigma)
        return Boundary()(sigma)

    f = Consistency(Net(), precond)
    for _ in range(3):
        OneStep([80.0])(f, torch.randn(2, 3))
    assert len(asked) == 1
