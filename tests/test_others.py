"""Networks of others with the role that they have, beside what their own code makes of the same weights."""

import math
from functools import partial

import pytest
import torch

from consistency.errors import UserError
from consistency.model.condition import Condition
from consistency.model.coordinates import DDPM, Nearest
from consistency.model.maps import Consistency, Denoiser, as_denoiser
from consistency.model.precond import EDM, VE, Boundary, Epsilon
from consistency.nets.adm import ADM
from consistency.sampling.levels import karras_sigmas, nearest_sigmas
from consistency.sampling.ode import Heun
from consistency.sampling.samplers import MultiStep
from consistency.teachers.edm import edm
from consistency.teachers.openai import openai, openai_consistency
from tests.reference import teachers as reference
from tests.test_teachers import ddpmpp, dhariwal, ncsnpp, official_modules, unetmodel, write_edm  # noqa: F401

augmented = partial(dhariwal, augment=9)


def levels(M=1000, C_1=0.001, C_2=0.008):
    """u of iDDPM, falling to 0, by the recursion of 2206.00364, table 1."""
    u = [0.0]
    for j in range(M, 0, -1):
        bar = [math.sin(0.5 * math.pi * i / M / (C_2 + 1)) ** 2 for i in (j - 1, j)]
        u.append(math.sqrt((u[-1] ** 2 + 1) / max(bar[0] / bar[1], C_1) - 1))
    return torch.tensor(u[::-1])


def file(path, precond):
    """A file of EDM's or ECT's with this preconditioner, and the network that it is of."""
    if precond == "VEPrecond":
        tensors = reference.values(reference.song(4))
        return write_edm(path, tensors, precond=precond, sigma_min=0.02), ncsnpp
    if precond == "iDDPMPrecond":
        tensors = reference.values(reference.dhariwal_augmented(6))
        settings = {"M": 1000, "C_1": 0.001, "C_2": 0.008, "buffers": {"u": levels()}}
        return write_edm(path, tensors, "DhariwalUNet", precond, **settings), augmented
    tensors, vp = reference.values(reference.song()), {"beta_d": 19.9, "beta_min": 0.1, "M": 1000}
    return write_edm(path, tensors, precond=precond, sigma_min=0.003, **vp), ddpmpp


def pixels(f, c):
    """What the goldens are, in float64."""
    x, sigma, _ = reference.inputs()
    return f.double()(x, sigma, c)[:, :, 2, 3].flatten().tolist()


# Readers


@pytest.mark.parametrize(
    ("precond", "role", "ours", "expected"),
    [
        ("VEPrecond", Denoiser, VE(0.02), reference.VE),
        ("iDDPMPrecond", Denoiser, Epsilon(Nearest(DDPM.cosine(1000))), reference.IDDPM),
        ("ECMPrecond", Consistency, Boundary(0.5, 0.003), reference.ECM),
    ],
)
def test_a_class_of_edm_or_ect_is_a_role_and_a_preconditioner(tmp_path, precond, role, ours, expected):
    path, net = file(tmp_path / "edm.pkl", precond)
    f = edm(path, net().double())
    assert type(f) is role
    assert f.precond == ours
    label = reference.inputs()[2]
    assert pixels(f, Condition(label)) == pytest.approx(expected, abs=3e-6)
    assert not f.training
    assert not any(p.requires_grad for p in f.parameters())


def test_an_adm_with_labels_of_augmentation(tmp_path):
    tensors = reference.values(reference.dhariwal_augmented())
    path = write_edm(tmp_path / "edm.pkl", tensors, "DhariwalUNet")
    label, aug = reference.inputs()[2], reference.augment()
    D = edm(path, augmented().double())
    for c, expected in zip((Condition(label, aug), Condition(label)), reference.ADM_AUGMENTED, strict=True):
        assert pixels(D, c) == pytest.approx(expected, abs=2e-6)
    with pytest.raises(UserError, match=r"map_augment\.weight is \[64, 9\] there and absent here"):
        edm(path, dhariwal())


def test_labels_of_augmentation_change_nothing_at_first():
    torch.manual_seed(0)
    net = augmented()
    x, sigma, label = reference.inputs()
    with_labels = net(x.float(), sigma.float(), Condition(label, reference.augment()))
    assert torch.equal(with_labels, net(x.float(), sigma.float(), Condition(label)))
    with pytest.raises(UserError, match=r"net\.augment=-1"):
        dhariwal(augment=-1)


@pytest.mark.parametrize(("change", "message"), [(None, "u, are not"), (levels(1000, 0.01), "u, are not")])
def test_levels_that_do_not_go_with_the_settings_are_refused(tmp_path, change, message):
    tensors = reference.values(reference.dhariwal_augmented(6))
    settings = {"M": 1000, "C_1": 0.001, "C_2": 0.008, "buffers": None if change is None else {"u": change}}
    path = write_edm(tmp_path / "edm.pkl", tensors, "DhariwalUNet", "iDDPMPrecond", **settings)
    with pytest.raises(UserError, match=message):
        edm(path, augmented())


def test_openai_what_the_user_says_is_the_role(tmp_path):
    """A file is a network and no more: cd_*.pt and edm_*.pt look alike."""
    torch.save(reference.values(reference.unetmodel()), tmp_path / "any.pt")
    f, D = openai_consistency(tmp_path / "any.pt", unetmodel()), openai(tmp_path / "any.pt", unetmodel())
    assert (type(f), f.precond) == (Consistency, Boundary(0.5, 0.002, 250.0))
    assert (type(D), D.precond) == (Denoiser, EDM(0.5, 250.0))
    label = reference.inputs()[2]
    assert pixels(f, Condition(label)) == pytest.approx(reference.CONSISTENCY, abs=2e-6)
    with pytest.raises(UserError, match="is a consistency function, and a denoiser is needed"):
        as_denoiser(f, "teacher.path=any.pt")


@pytest.mark.parametrize("read", [openai, openai_consistency])
def test_openai_has_no_labels_of_augmentation(tmp_path, read):
    torch.save(reference.values(reference.unetmodel()), tmp_path / "any.pt")
    with pytest.raises(UserError, match=r"augment\.weight is absent there"):
        read(tmp_path / "any.pt", ADM(**reference.UNETMODEL_SIZE, augment=9))


# Samples, beside those of the original samplers from the same noise


class Recorded:
    """Draws whose only noise is that of the references."""

    def normal(self, like):
        return reference.noise()[1].to(like)


def sampled(sampler, f):
    """The pixel of the goldens, of samples in float64."""
    c = Condition(reference.inputs()[2])
    return sampler(f.double(), reference.noise()[0], c, Recorded())[:, :, 2, 3].flatten().tolist()


@pytest.mark.parametrize(
    ("precond", "least", "expected"),
    [
        ("EDMPrecond", 0.002, reference.EDM_HEUN),
        ("VPPrecond", 0.002, reference.VP_HEUN),
        ("VEPrecond", 0.02, reference.VE_HEUN),
        ("iDDPMPrecond", 0.0064254, reference.IDDPM_HEUN),
    ],
)
def test_eighteen_steps_of_heun_from_a_file_of_edm(tmp_path, precond, least, expected):
    path, net = file(tmp_path / "edm.pkl", precond)
    D = edm(path, net().double())
    sigmas = karras_sigmas(18, least, 80.0, 7.0)
    if precond == "iDDPMPrecond":
        sigmas = nearest_sigmas(D.precond.coordinate, sigmas)
    assert len(sigmas) == 18
    assert sampled(Heun(sigmas), D) == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_eighteen_steps_of_heun_from_an_adm_of_edm(tmp_path):
    tensors = reference.values(reference.dhariwal_augmented())
    D = edm(write_edm(tmp_path / "edm.pkl", tensors, "DhariwalUNet"), augmented().double())
    assert sampled(Heun(karras_sigmas(18)), D) == pytest.approx(reference.ADM_HEUN, abs=1e-5)


@pytest.mark.parametrize(
    ("sigmas", "expected"), [([80.0], reference.ECM_ONE), ([80.0, 0.821], reference.ECM_TWO)]
)
def test_one_and_two_steps_from_a_snapshot_of_ect(tmp_path, sigmas, expected):
    """Which adds all of the noise of the second level, as if f ended at σ = 0."""
    path, net = file(tmp_path / "ect.pkl", "ECMPrecond")
    f = edm(path, net().double())
    assert sampled(MultiStep(sigmas, sigma_min=0.0), f) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="use samplers=consistency"):
        Heun(karras_sigmas(18))(f, reference.noise()[0])


@pytest.mark.parametrize(("calls", "expected"), [(1, reference.OPENAI_ONE), (2, reference.OPENAI_TWO)])
def test_one_and_two_steps_from_a_consistency_function_of_openai(tmp_path, calls, expected):
    torch.save(reference.values(reference.unetmodel()), tmp_path / "cd.pt")
    f = openai_consistency(tmp_path / "cd.pt", unetmodel().double())
    sigmas = [80.0, 1.3823679566485092][:calls]  # place 22 of 0 … 39 on the grid of Karras et al.
    assert sampled(MultiStep(sigmas, clip=True), f) == pytest.approx(expected, abs=1e-5)


def test_eighteen_steps_of_heun_from_a_teacher_of_openai(tmp_path):
    torch.save(reference.values(reference.unetmodel()), tmp_path / "edm.pt")
    D = openai(tmp_path / "edm.pt", unetmodel().double())
    samples = sampled(Heun(karras_sigmas(18), clip=True), D)
    assert samples == pytest.approx(reference.OPENAI_HEUN, abs=1e-5)


# The preconditioners, by formulas written for this test


@pytest.mark.parametrize("sigma", [0.02, 0.3, 1.0, 100.0])
def test_ve(sigma):
    c = VE()(torch.tensor([sigma]).double())
    assert [value.item() for value in c] == pytest.approx([1.0, sigma, 1.0, math.log(0.5 * sigma)])
    assert VE(0.01).lowest == 0.01
    with pytest.raises(UserError, match="sigma"):
        VE(0.0)


def test_the_levels_of_iddpm_are_the_cosine_chain_and_its_indices_are_whole():
    coordinate, u = Nearest(DDPM.cosine(1000)), levels()
    assert torch.allclose(coordinate.chain.levels, u[:-1].flip(0).double(), rtol=1e-5)
    for j, value in reference.IDDPM_LEVELS.items():  # which their code computes in float32
        assert u[j].item() == pytest.approx(value, rel=1e-3)
    sigma = torch.cat([torch.logspace(-4, 4.2, 999), torch.tensor([0.0, 3e-3, 4e-3])]).double()
    nearest = (sigma[:, None] - u.double()).abs().argmin(1)
    assert torch.equal(coordinate.time(sigma), 999.0 - nearest)
    assert torch.equal(Epsilon(coordinate)(sigma).noise, 999.0 - nearest)
    assert torch.allclose(coordinate.sigma(coordinate.time(sigma)), u.double()[nearest], rtol=1e-5)
    assert coordinate.lowest == pytest.approx(0.0064254, rel=1e-4)
    c = Epsilon(coordinate)(sigma)
    assert torch.allclose(c.skip, torch.ones_like(sigma))
    assert torch.allclose(c.out, -sigma)
    assert torch.allclose(c.inp, (sigma**2 + 1) ** -0.5)
