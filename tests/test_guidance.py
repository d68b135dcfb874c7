"""Guidance: one convention, in which w = 1 is none, and the conversions at the borders."""

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.model.guidance import Guided, from_lcm, from_meanflow
from consistency.model.maps import Consistency, Denoiser
from consistency.model.precond import EDM
from consistency.nets.mlp import MLP
from consistency.objectives.flow import TeacherFlow


@pytest.fixture(scope="module")
def D():
    torch.manual_seed(0)
    D = Denoiser(MLP((2,), classes=3, width=16, blocks=1), EDM())
    for p in D.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return D.requires_grad_(False).double()


X = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
SIGMA = torch.tensor([0.05, 0.5, 5.0, 50.0], dtype=torch.float64)
C = Condition(torch.tensor([0, 1, 2, 1]))
NOBODY = Condition(torch.full((4,), -1))


@pytest.mark.parametrize("w", [0.0, 0.5, 2.0, 7.5])
def test_it_is_the_combination_of_edm2_and_diffusers(D, w):
    expected = D(X, SIGMA, NOBODY) + w * (D(X, SIGMA, C) - D(X, SIGMA, NOBODY))
    torch.testing.assert_close(Guided(D, w)(X, SIGMA, C), expected)


def test_weight_1_is_no_guidance_to_the_bit(D):
    assert torch.equal(Guided(D, 1.0)(X, SIGMA, C), D(X, SIGMA, C))
    assert torch.equal(Guided(D, 1.0)(X, SIGMA), D(X, SIGMA))


def test_it_ends_where_the_interval_does(D):
    made, plain, strong = Guided(D, 3.0, 0.3, 6.0)(X, SIGMA, C), D(X, SIGMA, C), Guided(D, 3.0)(X, SIGMA, C)
    torch.testing.assert_close(made[[0, 3]], plain[[0, 3]])
    torch.testing.assert_close(made[[1, 2]], strong[[1, 2]])
    assert torch.equal(Guided(D, 3.0, 0.3, 6.0)(X, 50.0, C), D(X, 50.0, C))


def test_samples_may_have_weights_of_their_own(D):
    w = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64)
    each = [
        Guided(D, v.item())(X[i : i + 1], SIGMA[i : i + 1], C.rows(slice(i, i + 1))) for i, v in enumerate(w)
    ]
    torch.testing.assert_close(Guided(D, 1.0)(X, SIGMA, C._replace(guidance=w)), torch.cat(each))


def test_a_student_follows_a_guided_teacher(D):
    """Guidance is a teacher like any other: the flow's velocity is that of D_w."""
    velocity = TeacherFlow(Guided(D, 2.0)).velocity(X, SIGMA, X, X, C)
    torch.testing.assert_close(velocity, (X - Guided(D, 2.0)(X, SIGMA, C)) / SIGMA[:, None])


def test_what_cannot_be_guided_is_refused(D):
    with pytest.raises(UserError, match=r"^guidance is a consistency function"):
        Guided(Consistency(D.net, EDM()), 2.0)
    with pytest.raises(UserError, match="needs a condition"):
        Guided(D, 2.0)(X, SIGMA)
    for options in ({"weight": -1.0}, {"weight": 2.0, "low": 3.0, "high": 1.0}):
        with pytest.raises(UserError, match=r"^guidance\."):
            Guided(D, **options)


def test_weights_of_others(D):
    """LCM extrapolates from the conditional estimate, MeanFlow mixes in its own."""
    c, none, w = D(X, SIGMA, C), D(X, SIGMA, NOBODY), 3.0
    torch.testing.assert_close(Guided(D, from_lcm(w))(X, SIGMA, C), c + w * (c - none))
    omega, kappa = 1.5, 0.5
    v = c.clone()  # the fixed point of v = ω c + κ v + (1 - ω - κ) none
    for _ in range(100):
        v = omega * c + kappa * v + (1 - omega - kappa) * none
    torch.testing.assert_close(Guided(D, from_meanflow(omega, kappa))(X, SIGMA, C), v)
