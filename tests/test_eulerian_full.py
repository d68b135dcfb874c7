"""Eulerian self-distillation: the value of `Eulerian`, and the gradient through f and ∂f/∂t."""

import copy

import pytest
import torch

from consistency.model.condition import NONE
from consistency.objectives.balance import Unbalanced
from consistency.objectives.bound import Unbounded
from consistency.objectives.derivative import CentralDifferences, ForwardMode
from consistency.objectives.eulerian_full import FullEulerian
from consistency.objectives.power import Squared
from consistency.objectives.tangent import FlowTangent
from consistency.objectives.two_time import UntilS, mean_square
from consistency.objectives.units import MeanVelocity
from consistency.truth.flow import ExactFlow
from consistency.truth.oracle import Mixture
from tests.test_flow_maps import errors, exact_map, gradients, objective, points, wavy

FLOW = ExactFlow(Mixture.gaussian(0.7))


@pytest.fixture
def full():
    times = objective("eulerian").times
    return FullEulerian(
        ForwardMode(), Unbounded(), times, MeanVelocity(), Squared(), Unbalanced(), FlowTangent()
    )


def test_it_vanishes_at_the_exact_map(full):
    assert errors(full, exact_map(0.7), FLOW, points()).abs().max() < 1e-10


def test_its_value_is_that_of_the_eulerian_form(full):
    f, p = wavy(), points(40)
    assert torch.allclose(errors(full, f, FLOW, p), errors(objective("eulerian"), f, FLOW, p), rtol=1e-10)


def test_its_gradient_passes_through_the_derivative_by_t_alone(full):
    f, p = wavy(), points(40)
    frozen, w = copy.deepcopy(f), (p.s / p.t)[:, None]
    dx = p.t[:, None] * FLOW.velocity(p.x_t, p.t, p.x, p.z, NONE)
    zero = torch.zeros_like(p.t)
    moved = ForwardMode()(UntilS(frozen, p.s), p.x_t, p.t, NONE, dx, zero)[1].detach()
    differences = CentralDifferences(h=1e-4)
    y, dy = differences(UntilS(f, p.s), p.x_t, p.t, NONE, torch.zeros_like(p.x_t), p.t)
    rate, unit = full.units.rate(p.t, p.s)[:, None], full.units.of_f(p.t)[:, None]
    other = rate * (w * (y - (p.x_t - dx)) + (1 - w) * (dy + moved)) / unit
    theirs = gradients(f, mean_square(other))
    ours = gradients(f, mean_square(errors(full, f, FLOW, p)))
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
