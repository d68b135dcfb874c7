"""Non-leaky augmentation against flips, shifts and turns done by torch, and EDM's own pipeline."""

import math
from dataclasses import fields

import pytest
import torch
from torch.nn.functional import pad

from consistency.errors import UserError
from consistency.objectives.augmentation import (
    SYM6,
    Moves,
    NoAugmentation,
    NonLeaky,
    moved,
    warped,
)
from consistency.schedule.draws import StepDraws
from tests.reference import edm_augment

PARTS = {"scale": [2], "turn": [3, 4], "stretch": [5, 6], "shift": [7, 8]}


class Told:
    """Draws that were written down."""

    def __init__(self, uniform, normal):
        self.given, self.numbers = iter(uniform), normal

    def uniform(self, n, device):
        u = torch.tensor(next(self.given), dtype=torch.float64)
        assert len(u) == n
        return u

    def normal(self, x):
        return torch.tensor(self.numbers, dtype=torch.float64).reshape(x.shape)


def some(n, size=8, channels=1, dtype=torch.float32):
    """Images of noise."""
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def smooth(size=32):
    """A blob off the centre, float64 [1, 1, size, size], gone at the borders."""
    i, j = torch.meshgrid(*[torch.arange(size, dtype=torch.float64) - (size - 1) / 2] * 2, indexing="ij")
    return torch.exp(-((i + 4) ** 2 / 18 + (j - 2) ** 2 / 8))[None, None]


def apply(x, law=None, **what):
    """x with these moves, all others being nothing."""
    law, none = law or NonLeaky(), torch.zeros(len(x), dtype=torch.float64)
    still = dict.fromkeys(Moves._fields, none) | {"shift": torch.zeros(len(x), 2, dtype=torch.float64)}
    given = {name: torch.as_tensor(v, dtype=torch.float64).expand_as(still[name]) for name, v in what.items()}
    moves = Moves(**{**still, **given})
    return moved(x, moves, law.motion(moves, *x.shape[2:]))


def pixels(x, right, down, law=None):
    """A shift by pixels."""
    law = law or NonLeaky()
    return torch.tensor([right / x.shape[3], down / x.shape[2]], dtype=torch.float64) / law.shift_std


def centre(x):
    """(column, row) of the centre of mass, from the centre of the image."""
    i, j = torch.meshgrid(*[torch.arange(n, dtype=x.dtype) - (n - 1) / 2 for n in x.shape[2:]], indexing="ij")
    return ((x * j).sum() / x.sum()).item(), ((x * i).sum() / x.sum()).item()


class TestGeometry:
    def test_flips(self):
        x = some(3)
        assert torch.equal(apply(x, flip_x=1), x.flip(3))
        assert torch.equal(apply(x, flip_y=1), x.flip(2))
        assert torch.equal(apply(x, flip_x=1, flip_y=1), x.flip(2, 3))

    @pytest.mark.parametrize(("right", "down"), [(3, 0), (0, -2), (-1, 4), (7, 7)])
    def test_shifts_by_pixels_reflect_at_the_border(self, right, down):
        x = some(2, size=12, channels=3, dtype=torch.float64)
        wide = pad(x, (7, 7, 7, 7), "reflect").roll((down, right), (2, 3))[..., 7:-7, 7:-7]
        assert torch.allclose(apply(x, shift=pixels(x, right, down)), wide, atol=1e-10, rtol=0)

    def test_shifts_far_beyond_the_border_come_back(self):
        x = some(2, size=12, dtype=torch.float64)
        assert torch.allclose(apply(x, shift=pixels(x, 22 * 3, -22 * 5)), x, atol=1e-10, rtol=0)

    def test_images_that_are_not_square(self):
        x = torch.cat([some(1, 16, 2, torch.float64), some(1, 16, 2, torch.float64).flip(3)], 3)
        assert torch.allclose(
            apply(x, shift=pixels(x, 4, 1))[..., 1:, 4:], x[..., :-1, :-4], atol=1e-10, rtol=0
        )

    @pytest.mark.parametrize("quarters", [1, 2, 3])
    def test_quarter_turns(self, quarters):
        """But for a tenth of a pixel: symlet 6 is not quite symmetric, in EDM's as here."""
        turned = apply(smooth(), angle=quarters * math.pi / 2)
        assert torch.allclose(turned, torch.rot90(smooth(), quarters, (2, 3)), atol=0.03)
        assert (smooth() - torch.rot90(smooth(), quarters, (2, 3))).abs().max() > 0.5

    def test_enlargement_is_in_octaves(self):
        x, law = smooth(), NonLeaky()
        there = apply(x, scale=1)
        assert (there.sum() / x.sum()).item() == pytest.approx(2 ** (2 * law.scale_std), rel=1e-3)
        assert centre(there) == pytest.approx([2**law.scale_std * c for c in centre(x)], abs=0.02)

    def test_a_stretch_keeps_the_area(self):
        x, law = smooth(), NonLeaky()
        there = apply(x, stretch=1)  # along x
        assert (there.sum() / x.sum()).item() == pytest.approx(1, rel=5e-3)
        (u, v), factor = centre(x), 2**law.stretch_std
        assert centre(there) == pytest.approx((u * factor, v / factor), abs=0.05)

    def test_a_stretch_across_shrinks_along(self):
        there = apply(smooth(), stretch=1, along=math.pi / 2)
        assert torch.allclose(there, apply(smooth(), stretch=-1), atol=1e-12)

    def test_a_map_that_does_nothing_gives_the_image(self):
        x = some(2, dtype=torch.float64)
        still = NonLeaky().motion(Moves(*[torch.zeros(2).double()] * 6, torch.zeros(2, 2).double()), 8, 8)
        assert torch.allclose(warped(x, still), x, atol=1e-12)

    def test_the_filter_is_an_orthonormal_wavelet(self):
        h = torch.tensor(SYM6, dtype=torch.float64)
        for k in range(6):
            assert (h[2 * k :] * h[: len(h) - 2 * k]).sum().item() == pytest.approx(float(k == 0), abs=1e-10)
        assert h[::2].sum().item() == pytest.approx(math.sqrt(0.5))
        assert h[1::2].sum().item() == pytest.approx(math.sqrt(0.5))

    def test_a_grey_wall_stays_one(self):
        x = torch.full((64, 1, 8, 8), 0.7)
        y, label = NonLeaky(p=1)(x, StepDraws(0, 0))
        assert (label[:, 2:] != 0).any(1).all()
        assert torch.allclose(y, x, atol=1e-5)  # and does not fade to black at its borders


class TestAgainstEDM:
    def test_pixels_and_labels(self):
        draws = Told(edm_augment.uniform(), edm_augment.normal())
        y, label = NonLeaky()(edm_augment.images(), draws)
        for image in range(2):
            assert label[image].tolist() == pytest.approx(edm_augment.LABELS[image], abs=1e-8)
        for (row, column), values in edm_augment.PIXELS.items():
            assert torch.allclose(y[:, :, row, column], y.new_tensor(values), atol=2e-6)


class TestLabels:
    def test_zeros_if_and_only_if_untouched(self):
        x = some(2000)
        y, label = NonLeaky()(x, StepDraws(0, 0))
        same = (x == y).flatten(1).all(1)
        assert torch.equal(same, (label == 0).all(1))
        assert 400 < same.sum() < 750  # 0.5 · 0.94 · 0.88⁴ = 0.282 of 2000

    def test_mirrored_images_are_exact(self):
        x = some(100)
        y, label = NonLeaky(p=0)(x, StepDraws(0, 0))
        assert (label[:, 1:] == 0).all()
        assert torch.equal(y, torch.where(label[:, :1, None, None] == 1, x.flip(3), x))
        assert 30 < label[:, 0].sum() < 70

    @pytest.mark.parametrize("part", range(1, 6))
    def test_order(self, part):
        """One part alone, by its own chance: all other columns are zero."""
        columns = [[0], [1], *PARTS.values()]
        chance = [(0.0,) if k == part else (1.0,) for k in range(1, 6)]
        told = Told([*chance, (0.9,), (0.1,), (0.1,), (0.8,), (0.6,)], [[0.5, -0.7, 1.1, -0.3]])
        y, label = NonLeaky()(some(1), told)
        assert label[0].nonzero().flatten().tolist() == columns[part]
        angle, along = math.pi * 0.6, math.pi * 0.2
        values = {
            1: [1],
            2: [0.5],
            3: [math.cos(angle) - 1, math.sin(angle)],
            4: [-0.7 * math.cos(along), -0.7 * math.sin(along)],
            5: [1.1, -0.3],
        }
        assert label[0, columns[part]].tolist() == pytest.approx(values[part], rel=1e-6)
        assert not torch.equal(y, some(1))

    def test_each_part_happens_by_itself_with_probability_p(self):
        n = 40000
        label = NonLeaky().drawn(some(n, size=1), StepDraws(0, 0)).label()
        happens = torch.stack([(label[:, c] != 0).any(1) for c in PARTS.values()]).double()
        assert happens.mean(1).tolist() == pytest.approx([0.12] * 4, abs=0.007)
        assert label[:, :2].mean(0).tolist() == pytest.approx([0.5, 0.06], abs=0.01)
        both = (happens[0] * happens[1]).mean().item()
        assert both == pytest.approx(0.12**2, abs=0.003)

    def test_sizes(self):
        moves = NonLeaky(p=1).drawn(some(40000, size=1), StepDraws(0, 0))
        for n in (moves.scale, moves.stretch, *moves.shift.unbind(1)):
            assert (n.mean().item(), n.std().item()) == pytest.approx((0, 1), abs=0.02)
        assert moves.angle.abs().max() <= math.pi
        assert moves.angle.std().item() == pytest.approx(math.pi / math.sqrt(3), rel=0.01)
        assert (moves.along == 0).double().mean().item() == pytest.approx(0.5, abs=0.01)


class TestRandomNumbers:
    def test_a_step_repeats_and_steps_differ(self):
        x = some(16)
        (y0, l0), (y1, l1), (_, l2) = (NonLeaky()(x, StepDraws(0, k)) for k in (3, 3, 4))
        assert torch.equal(y0, y1)
        assert torch.equal(l0, l1)
        assert not torch.equal(l0, l2)

    def test_ranks_share_the_numbers_of_the_global_batch(self):
        x = some(16)
        whole = NonLeaky(p=0.5)(x, StepDraws(0, 1))
        parts = [NonLeaky(p=0.5)(x[8 * r :][:8], StepDraws(0, 1, rank=r, world=2)) for r in range(2)]
        for k in range(2):
            assert torch.equal(whole[k], torch.cat([part[k] for part in parts]))

    def test_the_global_state_is_left_alone(self):
        before = torch.get_rng_state()
        NonLeaky(p=1)(some(4), StepDraws(0, 0))
        assert torch.equal(before, torch.get_rng_state())

    def test_as_many_numbers_whatever_is_done(self):
        """What is drawn next must not hang on p."""
        following = []
        for p in (0.0, 1.0):
            draws = StepDraws(0, 0)
            NonLeaky(p=p)(some(4), draws)
            following.append(draws.normal(some(4)))
        assert torch.equal(*following)


@pytest.mark.parametrize("size", [8, 10, 32])
def test_images_keep_their_mean_and_spread(size):
    x = some(200, size=size, channels=3).cumsum(3).tanh()
    y, label = NonLeaky(p=1)(x, StepDraws(0, 0))
    assert y.shape == x.shape
    assert y.dtype == label.dtype == x.dtype
    assert abs((y.mean() - x.mean()).item()) < 0.1
    assert 0.8 < (y.std() / x.std()).item() < 1.1


def test_precision():
    x = some(32, size=16, dtype=torch.float64)
    exact, _ = NonLeaky(p=1)(x, StepDraws(0, 0))
    for dtype, tolerance in ((torch.float32, 1e-4), (torch.bfloat16, 0.05)):
        with torch.autocast("cpu", torch.bfloat16):
            y, _ = NonLeaky(p=1)(x.to(dtype), StepDraws(0, 0))
        assert y.dtype == dtype
        assert torch.allclose(y.double(), exact, atol=tolerance)


def test_nothing_is_done_to_points_and_by_no_augmentation():
    x = torch.randn(3, 2)
    assert NoAugmentation()(x, StepDraws(0, 0)) == (x, None)
    with pytest.raises(UserError, match="augmentation=none"):
        NonLeaky()(x, StepDraws(0, 0))


@pytest.mark.parametrize("name", [f.name for f in fields(NonLeaky)])
def test_what_is_no_probability_is_refused(name):
    with pytest.raises(UserError, match=f"augmentation.{name}=-1"):
        NonLeaky(**{name: -1})
