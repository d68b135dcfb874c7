"""Random numbers are functions of what they are for."""

import torch

from consistency.schedule.draws import STEPS, ImageDraws, StepDraws, key


def test_ranks_see_slices_of_one_global_batch():
    x, half = torch.empty(8, 3, 2, 2), torch.empty(4, 3, 2, 2)
    whole = StepDraws(7, STEPS, 0, 5)
    parts = [StepDraws(7, STEPS, 0, 5, rank=rank, world=2) for rank in (0, 1)]
    for _ in range(2):
        u = torch.cat([part.uniform(4, x.device) for part in parts])
        assert torch.equal(u, whole.uniform(8, x.device))
        z = torch.cat([part.normal(half) for part in parts])
        assert torch.equal(z, whole.normal(x))


def test_steps_seeds_and_parts_differ_and_repeat():
    x = torch.empty(2, 5)
    words = [(0, STEPS, 0, 0), (0, STEPS, 0, 1), (0, STEPS, 1, 0), (1, STEPS, 0, 0)]
    drawn = [StepDraws(*w).normal(x) for w in words]
    assert all(not torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i])
    assert torch.equal(drawn[1], StepDraws(0, STEPS, 0, 1).normal(x))


def test_a_stream_never_repeats_a_seed():
    seeds = {key(3, STEPS, 0, k) for k in range(100_000)}
    assert len(seeds) == 100_000
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_image_i_is_the_same_in_every_batch():
    x = torch.empty(4, 3)
    together = ImageDraws(0, range(4)).normal(x)
    alone = torch.cat([ImageDraws(0, [i]).normal(x[:1]) for i in range(4)])
    assert torch.equal(together, alone)


def test_a_fork_goes_on_with_the_same_numbers():
    draws = ImageDraws(0, range(4))
    x = torch.empty(4, 3)
    draws.normal(x)
    first, second = draws.fork().normal(x), draws.fork().normal(x)
    assert torch.equal(first, second)
    assert torch.equal(draws.normal(x), first)
    assert not torch.equal(draws.normal(x), first)
