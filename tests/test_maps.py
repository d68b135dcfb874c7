"""The three roles over one parametrisation, held against the exact maps of a Gaussian."""

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.model.maps import Consistency, Denoiser, FlowMap, as_denoiser, observed
from consistency.model.precond import EDM
from consistency.nets.mlp import MLP
from consistency.tensor import expand

V = 0.7  # standard deviation of the data
X = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
T = torch.tensor([0.01, 0.3, 1.0, 5.0, 40.0, 80.0], dtype=torch.float64)


def trajectory(x, t, s):
    """Where the probability flow of N(0, V²) takes x from t to s."""
    return x * expand(((V**2 + s**2) / (V**2 + t**2)).sqrt(), x)


class Exact(nn.Module):
    """F of the exact flow map in EDM's preconditioning."""

    times = 2

    def forward(self, x, noise, c, h):
        t = (4 * noise.double()).exp()
        s = 0.5 * (h.double() * (t / 0.5).atan()).tan()
        k, r = EDM()(t), torch.where(h == 1, 1.0, s / t)
        x = x / expand(k.inp, x)
        f = (trajectory(x, t, r * t) - expand(r, x) * x) / expand(1 - r, x)
        f = torch.where(expand(r, x) == 1, x * expand(V**2 / (V**2 + t**2), x), f)  # the limit s -> t
        return (f - expand(k.skip, x) * x) / expand(k.out, x)


@pytest.fixture
def f():
    return FlowMap(Exact(), EDM(), diagonal=True)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.99])
def test_a_jump_lands_on_the_trajectory(f, ratio):
    torch.testing.assert_close(f.jump(X, T, ratio * T), trajectory(X, T, ratio * T), rtol=1e-6, atol=1e-7)


def test_two_jumps_are_one(f):
    half = f.jump(X, T, 0.5 * T)
    torch.testing.assert_close(f.jump(half, 0.5 * T, 0.1 * T), f.jump(X, T, 0.1 * T), rtol=1e-6, atol=1e-7)


def test_its_diagonal_is_the_denoiser(f):
    D = f.diagonal
    assert isinstance(D, Denoiser)
    torch.testing.assert_close(D(X, T), X * (V**2 / (V**2 + T**2))[:, None], rtol=1e-5, atol=1e-7)
    assert as_denoiser(f, "it").net.net is f.net  # it shares the weights
    assert torch.equal(D(X, T), f(X, T, T))


def test_at_zero_it_is_the_consistency_function(f):
    end = f.at_zero
    assert isinstance(end, Consistency)
    torch.testing.assert_close(end(X, T), trajectory(X, T, torch.zeros_like(T)), rtol=1e-6, atol=1e-7)


def test_a_jump_of_no_length_is_the_identity(f):
    torch.testing.assert_close(f.jump(X, T, T), X)


def test_without_a_trained_diagonal_there_is_no_denoiser():
    f = FlowMap(Exact(), EDM(), diagonal=False)
    with pytest.raises(UserError, match=r"^teacher\.path=X: this flow map was trained without s = t"):
        as_denoiser(f, "teacher.path=X")


def test_a_consistency_function_is_no_denoiser():
    with pytest.raises(UserError, match=r"^teacher\.path=X is a consistency function.*start=teacher"):
        as_denoiser(Consistency(nn.Identity(), EDM()), "teacher.path=X")


def test_a_denoiser_and_a_closed_form_are_what_they_are():
    D = Denoiser(nn.Identity(), EDM())
    assert as_denoiser(D, "it") is D
    assert as_denoiser(trajectory, "it") is trajectory


def test_calls_are_observed_and_no_longer():
    seen, D = [], Denoiser(MLP((2,), width=4, blocks=1), EDM())
    with observed(lambda f, x: seen.append((f, len(x)))):
        D(torch.randn(3, 2), 1.0)
    D(torch.randn(3, 2), 1.0)
    assert seen == [(D, 3)]
