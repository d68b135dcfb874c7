"""Linear operators by their properties, baselines by their definitions, edits by exact denoisers."""

import math
from functools import partial
from random import Random

import pytest
import torch

from consistency.errors import UserError
from consistency.lit.data.digits import Digits
from consistency.metrics.distortion import psnr, ssim
from consistency.model.condition import NONE
from consistency.sampling.classical import (
    PseudoInverse,
    TotalVariation,
    Wiener,
    adjoint_gradient,
    image_gradient,
)
from consistency.sampling.editing import EditPlan, denoise, redraw, restore, slerp, walk_noise
from consistency.sampling.levels import karras_sigmas
from consistency.sampling.masks import all_but_hole, left_half, scattered
from consistency.sampling.operators import (
    LUMA,
    BoxSuperResolution,
    CompressedSensing,
    Grey,
    Inpainting,
    consistent,
    measure,
)
from consistency.sampling.operators_deepinv import Deepinv
from consistency.sampling.operators_iterative import Radon, conjugate_gradients
from consistency.sampling.operators_spectral import BicubicSuperResolution, Blur, MaskedFFT
from consistency.schedule.draws import ImageDraws, StepDraws

MAKERS = {
    "inpainting": partial(Inpainting, known=partial(scattered, share=0.3)),
    "box": partial(BoxSuperResolution, factor=2),
    "bicubic": partial(BicubicSuperResolution, factor=2),
    "grey": Grey,
    "blur": partial(Blur, width=0.7),
    "compressed_sensing": partial(CompressedSensing, share=0.3),
    "mri": partial(MaskedFFT, acceleration=3),
    "tomography": partial(Radon, angles=5),
}
ANY = Random(0)
SHAPES = [(3, 8, 8), *((3, 2 * ANY.randint(3, 9), 2 * ANY.randint(3, 9)) for _ in range(3))]
GREY_BASIS = (0.44711344, 0.87807155, 0.17052838)  # first column of the colour basis of 2303.01469's editor

SLOW = EditPlan(karras_sigmas(200))  # with few levels the first guess often decides


def numbers(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def norm(x):
    return x.square().sum().sqrt().item()


@pytest.fixture(params=[(name, shape) for name in MAKERS for shape in SHAPES], ids=str)
def case(request):
    """An operator, images, what was measured of them, and other images."""
    name, shape = request.param
    A = MAKERS[name](shape)
    x = numbers(1, 2, *shape)
    return A, x, A.forward(x), numbers(2, 2, *shape)


class TestProperties:
    def test_the_adjoint_is_one(self, case):
        A, x, Ax, _ = case
        y = numbers(3, *Ax.shape)
        left, right = (Ax * y).sum().item(), (x * A.adjoint(y)).sum().item()
        assert abs(left - right) < 1e-9 * norm(Ax) * norm(y)

    def test_the_pseudo_inverse_is_a_right_inverse_on_the_range(self, case):
        A, _, Ax, _ = case
        assert norm(A.forward(A.pseudo_inverse(Ax)) - Ax) < 1e-7 * norm(Ax)

    def test_the_pseudo_inverse_is_the_smallest_solution(self, case):
        """A⁺A is an orthogonal projection: what it takes away is orthogonal to what it leaves."""
        A, x, Ax, _ = case
        kept = A.pseudo_inverse(Ax)
        assert abs(((x - kept) * kept).sum().item()) < 1e-6 * norm(x) ** 2

    def test_the_projection_fits_exactly_and_is_idempotent(self, case):
        A, _, Ax, other = case
        once = A.project(other, Ax)
        assert norm(A.forward(once) - Ax) < 1e-7 * norm(Ax)
        assert norm(A.project(once, Ax) - once) < 1e-7 * norm(once)

    def test_the_projection_is_the_nearest_that_fits(self, case):
        """The way to it is orthogonal to every way between images that fit."""
        A, x, Ax, other = case
        there = A.project(other, Ax)
        assert abs(((other - there) * (there - x)).sum().item()) < 1e-6 * norm(other) * norm(x)

    @pytest.mark.parametrize("gamma", [0.01, 3.0, 1000.0])
    def test_the_proximal_step_solves_its_equation(self, case, gamma):
        A, _, Ax, other = case
        u = A.proximal(other, Ax, gamma)
        residual = u - other + gamma * A.adjoint(A.forward(u) - Ax)
        assert norm(residual) < 1e-7 * (1 + gamma) * norm(other)

    def test_a_firm_belief_in_exact_measurements_is_a_projection(self, case):
        A, _, Ax, other = case
        u = A.proximal(other, Ax, 1e10)
        assert norm(A.forward(u) - Ax) < 1e-3 * norm(Ax)

    def test_float32_images_stay_float32(self, case):
        A, x, Ax, other = (part.float() if isinstance(part, torch.Tensor) else part for part in case)
        made = [A.forward(x), A.adjoint(Ax), A.pseudo_inverse(Ax), A.project(other, Ax)]
        made.append(A.proximal(other, Ax, 2.0))
        assert {part.dtype for part in made} == {torch.float32}


class TestBasesOfThePaper:
    """The editor of 2303.01469 works in an orthogonal basis whose first vector is what is known."""

    @staticmethod
    def replaced(first, x, known):
        """Component 0 of x taken from `known`, in a basis that begins with `first`; vectors lie last."""
        n = len(first)
        filled = torch.cat([first[:, None], torch.eye(n, dtype=torch.float64)[:, 1:]], 1)
        Q, _ = torch.linalg.qr(filled)
        Q = Q * Q[:, 0].sum().sign()
        a, b = x @ Q, known @ Q
        return torch.cat([b[..., :1], a[..., 1:]], -1) @ Q.T, Q[:, 0]

    def test_colours(self):
        x, true = numbers(1, 2, 3, 4, 4), numbers(2, 2, 3, 4, 4)
        A = Grey((3, 4, 4))
        luma = torch.tensor(LUMA, dtype=torch.float64)
        expected, basis = self.replaced(luma / luma.norm(), x.movedim(1, -1), true.movedim(1, -1))
        assert basis.tolist() == pytest.approx(GREY_BASIS, abs=1e-8)
        assert torch.allclose(A.project(x, A.forward(true)), expected.movedim(-1, 1), atol=1e-12)

    @pytest.mark.parametrize("p", [2, 4])
    def test_patches(self, p):
        x, true = numbers(1, 1, 1, p, p), numbers(2, 1, 1, p, p)
        A = BoxSuperResolution((1, p, p), p)
        first = torch.full((p * p,), 1 / p, dtype=torch.float64)
        expected, _ = self.replaced(first, x.flatten(), true.flatten())
        assert A.forward(true).item() == pytest.approx(true.mean().item())
        assert torch.allclose(A.project(x, A.forward(true)).flatten(), expected, atol=1e-12)


class TestOperators:
    def test_masks_say_what_is_known(self):
        assert left_half((1, 2, 4)).tolist() == [[True, True, False, False]] * 2
        hole = all_but_hole((1, 4, 4), 0.5)
        assert (~hole).nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]
        assert scattered((1, 10, 10), 0.3).sum() == 30

    def test_known_pixels_stay_to_the_bit(self):
        A = Inpainting((1, 8, 8), left_half)
        x, other = numbers(1, 3, 1, 8, 8).float() / 3, numbers(2, 3, 1, 8, 8).float()
        made = A.project(other, A.forward(x))
        assert torch.equal(made[..., :4], x[..., :4])
        assert torch.equal(made[..., 4:], other[..., 4:])

    def test_a_blur_wraps_around_and_keeps_the_mean(self):
        A = Blur((1, 8, 8), 1.0)
        spot = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
        spot[..., 0, 0] = 1
        y = A.forward(spot)
        assert y.sum().item() == pytest.approx(1)
        assert y[0, 0, 0, 1].item() == pytest.approx(y[0, 0, 0, 7].item())
        assert y[0, 0, 0, 1].item() == pytest.approx(y[0, 0, 0, 0].item() * math.exp(-0.5))

    def test_bicubic_is_the_resizing_of_torch(self):
        x = numbers(1, 2, 1, 12, 8)
        expected = torch.nn.functional.interpolate(x, scale_factor=0.5, mode="bicubic", antialias=True)
        assert torch.allclose(BicubicSuperResolution((1, 12, 8), 2).forward(x), expected, atol=1e-12)

    def test_mri_measures_the_centre_and_no_more_than_it_may(self):
        A = MaskedFFT((1, 32, 32), acceleration=4, centre=0.1)
        assert len(A.columns) == 8
        assert {0, 1, 31} <= set(A.columns.tolist())
        flat = torch.ones(1, 1, 32, 32, dtype=torch.float64)
        assert torch.allclose(A.pseudo_inverse(A.forward(flat)), flat)

    def test_rays_from_above_and_from_the_side_are_sums_of_columns_and_rows(self):
        A = Radon((1, 8, 8), angles=2)
        x = numbers(1, 1, 1, 8, 8)
        y = 8 * A.forward(x)[0, 0]
        around = (A.detectors - 8) // 2
        assert y.sum(1).tolist() == pytest.approx([x.sum().item()] * 2)  # no pixel is lost
        assert torch.allclose(y[0, around : around + 8], x[0, 0].sum(0))
        assert torch.allclose(y[1, around : around + 8], x[0, 0].sum(1))

    def test_conjugate_gradients_solve_each_sample_by_itself(self):
        M = numbers(1, 6, 6)
        M = M @ M.T + torch.eye(6, dtype=torch.float64)
        right = torch.stack([numbers(2, 6), torch.zeros(6, dtype=torch.float64), 1e6 * numbers(3, 6)])
        found = conjugate_gradients(lambda x: x @ M, right, 50, 1e-12)
        assert torch.allclose(found @ M, right, rtol=1e-8)

    def test_noise_is_the_samples_own(self):
        A = Grey((3, 4, 4), noise=0.5)
        x = numbers(1, 3, 3, 4, 4)
        three = measure(A, x, ImageDraws(0, [4, 5, 6]))
        one = measure(A, x[1:2], ImageDraws(0, [5]))
        assert torch.equal(three[1:2], one)
        assert not torch.equal(three, A.forward(x))
        assert torch.equal(measure(Grey((3, 4, 4)), x, ImageDraws(0, [4, 5, 6])), A.forward(x))

    def test_a_noisy_step_averages_by_variance(self):
        A = Inpainting((1, 2, 2), left_half, noise=0.5)
        x, y = torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2)
        made = consistent(A, x, y, spread=0.5)
        assert made[0, 0].tolist() == [[0.5, 0.0], [0.5, 0.0]]

    @pytest.mark.parametrize(
        ("make", "said"),
        [
            (partial(BoxSuperResolution, factor=3), r"factor=3 must be 2 or more and divide the image, 8x8"),
            (partial(BicubicSuperResolution, factor=5), "factor=5"),
            (partial(Grey), "has no colours to make"),
            (partial(Blur, width=0.0), "width=0.0 must be greater than 0"),
            (partial(CompressedSensing, share=0.0), r"share=0\.0 must lie"),
            (partial(CompressedSensing, share=0.5, noise=-1), "noise=-1 must be at least 0"),
            (partial(MaskedFFT, acceleration=0.5), r"acceleration=0\.5 must be at least 1"),
            (partial(Radon, angles=0), "angles=0 must be at least 1"),
            (partial(Radon, angles=3, steps=0), "steps=0"),
            (partial(Inpainting, known=partial(scattered, share=2.0)), r"known\.share=2\.0"),
            (partial(Inpainting, known=partial(all_but_hole, side=1.0)), r"known\.side=1\.0"),
            (partial(Inpainting, known=lambda shape: torch.zeros(8, 8).bool()), "knows no pixel"),
        ],
    )
    def test_what_cannot_be_is_refused(self, make, said):
        with pytest.raises(UserError, match=said):
            make((1, 8, 8))


class TestDeepinv:
    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize(
        ("physics", "options"),
        [
            ("Downsampling", {"factor": 2, "filter": "bicubic"}),
            ("Decolorize", {}),
            ("Inpainting", {"mask": 0.5}),
        ],
    )
    def test_operators_of_the_library_are_fitted_too(self, physics, options):
        pytest.importorskip("deepinv")
        A = Deepinv((3, 8, 8), physics, options)
        x, other = numbers(1, 2, 3, 8, 8), numbers(2, 2, 3, 8, 8)
        y = A.forward(x)
        assert abs((y * y).sum() - (x * A.adjoint(y)).sum()) < 1e-5 * norm(y) ** 2
        assert norm(A.forward(A.project(other, y)) - y) < 1e-3 * norm(y)
        with pytest.raises(UserError, match="did you mean 'Downsampling'"):
            Deepinv((3, 8, 8), "Downsamplin", {})

    def test_without_the_library_it_says_where_to_get_it(self, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "deepinv.physics", None)
        with pytest.raises(UserError, match=r"pip install -e '\.\[inverse\]'"):
            Deepinv((3, 8, 8), "Downsampling", {})


class TestBaselines:
    def test_wiener_is_the_conditional_mean_of_a_gaussian(self):
        """Nothing is better where data are Gaussian; written out for a mask, by blocks of the covariance."""
        root = numbers(1, 16, 16)
        some = (numbers(2, 500, 16) @ root + 1).reshape(-1, 1, 4, 4)
        A = Inpainting((1, 4, 4), left_half, noise=0.3)
        y = measure(A, some[:5], ImageDraws(0, range(5)))
        mean, sigma = some.flatten(1).mean(0), some.flatten(1).T.cov()
        known = left_half((1, 4, 4)).flatten()
        both = sigma[known][:, known] + 0.09 * torch.eye(8)
        expected = mean + torch.linalg.solve(both, (y.flatten(1) - mean[known]).T).T @ sigma[known]
        assert torch.allclose(Wiener()(A, y, some).flatten(1), expected, atol=1e-8)

    def test_wiener_leaves_large_images_to_others(self):
        A = Inpainting((1, 4, 4), left_half)
        assert Wiener(pixels=15)(A, torch.zeros(2, 1, 8), torch.zeros(3, 1, 4, 4)).isnan().all()

    def test_the_gradient_has_an_adjoint(self):
        x, p = numbers(1, 2, 3, 5, 4), numbers(2, 2, 2, 3, 5, 4)
        assert (image_gradient(x) * p).sum().item() == pytest.approx((x * adjoint_gradient(p)).sum().item())

    def test_total_variation_fills_a_flat_hole(self):
        """Of all images that fit, the one with the shortest edges: here the flat one, which A⁺ misses."""
        x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
        x[..., 4:, :] = 1
        A = Inpainting((1, 8, 8), partial(all_but_hole, side=0.5))
        found = TotalVariation(steps=2000)(A, A.forward(x), x)
        assert torch.equal(A.forward(found), A.forward(x))
        assert norm(found - x) < 0.02
        assert norm(PseudoInverse()(A, A.forward(x), x) - x) > 1

    def test_total_variation_takes_noise_from_a_step(self):
        x = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
        x[..., 4:] = 1
        A = Inpainting((1, 8, 8), lambda shape: torch.ones(shape[1:]).bool(), noise=0.2)
        y = measure(A, x, StepDraws(0))
        assert norm(TotalVariation()(A, y, x) - x) < 0.6 * norm(A.adjoint(y) - x)


class TestDistortion:
    def test_psnr_of_a_known_error(self):
        true = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
        other = true.clone()
        other[1] = 255
        other[0] += 16
        assert psnr(other, true).tolist() == pytest.approx([20 * math.log10(255 / 16), 0.0])
        assert psnr(true, true).isinf().all()

    def test_ssim_as_it_is_written_in_the_paper(self):
        a, b = (torch.randint(256, (1, 1, 9, 8), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
        b = (a + b) // 2
        values = []
        for top in range(3):
            for left in range(2):
                p, q = (x[0, 0, top : top + 7, left : left + 7].double().flatten() for x in (a, b))
                covariance = torch.stack([p, q]).cov()
                c1, c2 = 2.55**2, 7.65**2
                up = (2 * p.mean() * q.mean() + c1) * (2 * covariance[0, 1] + c2)
                down = (p.mean() ** 2 + q.mean() ** 2 + c1) * (covariance[0, 0] + covariance[1, 1] + c2)
                values.append((up / down).item())
        assert ssim(a, b).item() == pytest.approx(sum(values) / 6)
        assert ssim(a, a).item() == pytest.approx(1)

    def test_ssim_needs_room(self):
        with pytest.raises(UserError, match="at least 7x7"):
            ssim(torch.zeros(1, 1, 6, 8), torch.zeros(1, 1, 6, 8))


class Seen:
    """A denoiser that answers 0 and remembers what it saw."""

    def __init__(self):
        self.x, self.sigma = [], []

    def __call__(self, x, sigma, c=NONE):
        self.x.append(x)
        self.sigma += [sigma[0].item()]
        return torch.zeros_like(x)


@pytest.fixture(scope="module")
def few():
    """Five digits, whose exact denoiser is known."""
    data = Digits(images=5, batch_size=1)
    return data.codec.encode(data.real()), data.density


class TestEditing:
    def test_the_first_call_sees_the_noise_of_its_level(self):
        """The editors of the first paper's notebook began without any (facts.md, trap 16)."""
        f, A = Seen(), Inpainting((1, 16, 16), left_half)
        y = A.forward(torch.full((8, 1, 16, 16), 0.5))
        restore(f, A, y, EditPlan([80.0, 8.0, 0.8]), StepDraws(0))
        assert f.sigma == [80, 8, 0.8]
        seen = [x.std().item() / sigma for x, sigma in zip(f.x[:2], f.sigma, strict=False)]
        assert seen == pytest.approx([1, 1], rel=0.1)
        later = f.x[2][..., :8]  # around what is known, not around what f said
        assert later.mean().item() == pytest.approx(0.5, abs=0.1)

    @pytest.mark.parametrize("name", ["inpainting", "box", "compressed_sensing", "tomography"])
    def test_an_exact_denoiser_finds_the_only_image_that_fits(self, few, name):
        x, density = few
        A = MAKERS[name]((1, 8, 8))
        made = restore(density.denoise, A, A.forward(x), SLOW, StepDraws(0))
        assert (made - x).abs().amax() < 0.05

    def test_it_does_so_from_noisy_measurements(self, few):
        x, density = few
        A = BoxSuperResolution((1, 8, 8), 2, noise=0.02)
        y = measure(A, x, ImageDraws(1, range(5)))
        made = restore(density.denoise, A, y, SLOW, StepDraws(0))
        assert (made - x).square().mean().sqrt() < 0.02

    def test_guesses_stay_among_pixels(self):
        class Loud(Seen):
            def __call__(self, x, sigma, c=NONE):
                return super().__call__(x, sigma) + 7

        made = redraw(Loud(), torch.zeros(1, 1, 4, 4), EditPlan([1.0], low=-0.5, high=0.9), StepDraws(0))
        assert made.unique().tolist() == [pytest.approx(0.9)]

    def test_redrawing_begins_where_it_is_told(self):
        f, plan = Seen(), EditPlan([80.0, 8.0, 0.8])
        redraw(f, torch.ones(1, 1, 4, 4), plan.begun_at(3.0), StepDraws(0))
        assert f.sigma == [3, 0.8]

    def test_the_least_level_has_no_root_of_a_negative_number(self):
        f = Seen()
        redraw(f, torch.ones(1, 1, 2, 2), EditPlan([0.002, 0.001]), StepDraws(0))
        assert f.sigma == [0.002, 0.002]
        assert torch.stack(f.x).isfinite().all()

    def test_denoising_asks_once_at_the_true_level(self):
        f, x = Seen(), torch.ones(1, 1, 2, 2)
        denoise(f, x, 0.3)
        assert f.sigma == [0.3]
        assert torch.equal(f.x[0], x)

    def test_slerp_keeps_the_length_and_its_ends(self):
        a, b = numbers(1, 3, 1, 16, 16), numbers(2, 3, 1, 16, 16)
        a, b = (z / z.flatten(1).norm(dim=1).reshape(-1, 1, 1, 1) for z in (a, b))
        assert torch.equal(slerp(a, b, 0.0), a)
        assert torch.equal(slerp(a, b, 1.0), b)
        middle = slerp(a, b, 0.3)
        assert middle.flatten(1).norm(dim=1).tolist() == pytest.approx([1] * 3)
        angle = (a * b).flatten(1).sum(1).acos()
        assert (a * middle).flatten(1).sum(1).acos().tolist() == pytest.approx((0.3 * angle).tolist())

    def test_slerp_between_equals_and_opposites_is_finite(self):
        a = numbers(1, 2, 4)
        assert torch.allclose(slerp(a, a, 0.4), a)
        assert slerp(a, -a, 0.4).isfinite().all()

    def test_each_sample_has_its_own_angle(self):
        a, b = numbers(1, 2, 64), numbers(2, 2, 64)
        b[1] = a[1] + 0.1 * b[1]
        assert torch.equal(slerp(a, b, 0.4)[1:], slerp(a[1:], b[1:], 0.4))

    def test_a_walk_passes_its_stops(self):
        stops = [numbers(i, 2, 1, 4, 4) for i in range(3)]
        frames = walk_noise(lambda x, sigma, c: x / sigma.reshape(-1, 1, 1, 1), stops, 5, 80.0)
        assert len(frames) == 11
        for frame, stop in zip(frames[::5], stops, strict=True):
            assert torch.allclose(frame, stop)
