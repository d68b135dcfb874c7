"""The flow of a reference batch: its mean where that is known, its variance, and the samples served."""

import itertools
import signal
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir

from consistency.build import build
from consistency.data.loader import ArrayData
from consistency.errors import UserError
from consistency.lit.data.digits import Digits
from consistency.lit.data.module import DataModule
from consistency.lit.data.points import Moons, Ring
from consistency.model.condition import NONE, Condition, given_label
from consistency.objectives import reference
from consistency.objectives.flow import DataFlow
from consistency.objectives.reference import Reference, ReferenceFlow
from consistency.schedule.draws import STEPS, StepDraws
from consistency.tensor import expand, perturb
from consistency.truth.oracle import Mixture
from tests.conftest import ROOT, SMALL, run, start
from tests.waits import ended, until

CPU = torch.device("cpu")
DIGITS = Digits(batch_size=64)
SEEN = DIGITS.codec.encode(DIGITS.real())
LEVELS = torch.tensor([1e-3, 0.002, 0.02, 0.2, 0.5, 1, 2, 5, 20, 80, 300, 800], dtype=torch.float64)
RING = Mixture.ring()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noised(x, t, seed=0):
    """x_t and z."""
    z = torch.randn(x.shape, generator=generator(seed), dtype=x.dtype)
    return perturb(x, z, t), z


def mean(flow, x_t, t, x, label=None):
    """The end of a step to r = 0."""
    return flow.step(x_t, t, torch.zeros_like(t), x, x, given_label(label))


# --- the posterior mean -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "close"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("data", [RING.sample(4096, generator()), SEEN.double()])
def test_over_all_data_it_is_the_exact_flow(data, dtype, close):
    t = LEVELS.repeat(4)
    x = data[torch.randint(len(data), (len(t),), generator=generator())].to(dtype)
    x_t, z = noised(x, t)
    exact = Mixture.finite(data.to(dtype)).denoise(x_t, t)
    flow = ReferenceFlow(data.to(dtype), None, own=False)
    found = mean(flow, x_t, t, x)
    assert found.dtype == dtype
    assert (found - exact).abs().max() < close
    velocity, wanted = flow.velocity(x_t, t, x, z, NONE), (x_t.double() - exact.double()) / expand(t, exact)
    assert (velocity - wanted).abs().mul(expand(t, x_t)).max() < close
    r = 0.7 * t
    end = flow.step(x_t, t, r, x, z, NONE)
    error = end.double() - (x_t.double() + expand(r - t, wanted) * wanted)
    assert (error / expand(1 + t, error)).abs().max() < close


@pytest.mark.parametrize("block", [1, 64 * 7, 2**30])
def test_blocks_do_not_matter(monkeypatch, block):
    data = DIGITS.codec.encode(DIGITS.real()[:200]).double()
    label = torch.arange(200) % 3
    t = LEVELS
    x_t, z = noised(data[: len(t)], t)
    for own in (True, False):
        arguments = (x_t, t, data[: len(t)], z, Condition(label[: len(t)]))
        monkeypatch.setattr(reference, "BLOCK", 64 * 50)
        expected = ReferenceFlow(data, label, own).velocity(*arguments)
        monkeypatch.setattr(reference, "BLOCK", block)
        found = ReferenceFlow(data, label, own).velocity(*arguments)
        assert torch.allclose(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("own", [True, False])
def test_a_class_sees_only_its_own(own):
    data, label = RING.sample(60, generator()), torch.arange(60) // 20  # in blocks, some without the class
    t = torch.full((60,), 0.7, dtype=torch.float64)
    x_t, _ = noised(data, t)
    together = mean(ReferenceFlow(data, label, own), x_t, t, data, label)
    for c in range(3):
        alone = mean(ReferenceFlow(data[label == c], None, own), x_t, t, data)
        assert torch.allclose(together[label == c], alone[label == c], atol=1e-12)
    unconditional = mean(ReferenceFlow(data, label, own), x_t, t, data)
    assert torch.allclose(unconditional, mean(ReferenceFlow(data, None, own), x_t, t, data))
    assert (together - unconditional).abs().max() > 0.1


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_reference_that_cannot_be_meant_leaves_the_flow_of_the_data(dtype):
    """Of another class, or beyond reach of the noise: the own sample has all the weight."""
    x = RING.sample(len(LEVELS), generator()).to(dtype)
    label = torch.zeros(len(x), dtype=torch.long)
    c = Condition(label)
    t, r = LEVELS, 0.4 * LEVELS
    x_t, z = noised(x, t)
    foreign, far = ReferenceFlow(x.flip(0), label + 1), ReferenceFlow(x + 1e6, None)
    rounding = 8 * torch.finfo(dtype).eps
    for flow in (foreign, far):
        error = flow.step(x_t, t, r, x, z, c) - DataFlow().step(x_t, t, r, x, z, c)
        assert (error / expand(1 + t, error)).abs().max() < rounding
        slope = flow.velocity(x_t, t, x, z, c) - z
        assert (slope * expand(t / (1 + t), slope)).abs().max() < rounding
        assert torch.equal(mean(flow, x_t, t, x, label), x)


def test_mixed_precision_does_not_reach_it():
    data = SEEN
    t = LEVELS
    x_t, z = noised(data[: len(t)], t)
    flow = ReferenceFlow(data[8:], None)
    plain = flow.velocity(x_t, t, data[: len(t)], z, NONE)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = flow.velocity(x_t, t, data[: len(t)], z, NONE)
    assert torch.equal(plain, mixed)


# --- bias and variance ------------------------------------------------------------------------------------


def test_it_is_unbiased_whatever_the_size():
    """Averaged over all references of two out of three samples, and over x given x_t: the posterior mean.

    Not of references drawn without replacement: there none but x itself could stand twice.
    """
    data = torch.tensor([[-1.0], [0.2], [0.7]], dtype=torch.float64)
    x_t, t = torch.tensor([[0.4]]).double(), torch.tensor([0.6]).double()
    posterior = (-((x_t - data) ** 2) / (2 * t**2)).softmax(0)
    references = [data[list(pair)] for pair in itertools.product(range(3), repeat=2)]
    found = [
        torch.stack([mean(ReferenceFlow(part, None), x_t, t, x[None])[0] for part in references]).mean()
        for x in data
    ]
    exact = Mixture.finite(data).denoise(x_t, t)
    assert (posterior[:, 0] @ torch.stack(found)).item() == pytest.approx(exact.item(), abs=1e-12)


def test_the_error_falls_as_the_root_of_the_size():
    t = torch.full((256,), 0.5, dtype=torch.float64)
    x = RING.sample(256, generator())
    x_t, _ = noised(x, t)
    exact = RING.denoise(x_t, t)
    source, rms = generator(1), []
    for size in (64, 512, 4096):
        flows = [ReferenceFlow(RING.sample(size, source), None) for _ in range(40)]
        error = torch.stack([mean(flow, x_t, t, x) - exact for flow in flows])
        rms.append(error.square().mean().sqrt().item())
    assert rms[0] / rms[1] == pytest.approx(8**0.5, rel=0.2)
    assert rms[1] / rms[2] == pytest.approx(8**0.5, rel=0.2)


class RingPosterior:
    """x given x_t, exactly."""

    data = RING

    def batch(self, n):
        return RING.sample(n, generator())

    def draw(self, x_t, t, source):
        s, level = RING.std, t[:, None]
        far = torch.cdist(x_t, RING.means).square()
        chosen = torch.multinomial((-far / (2 * (s**2 + level**2))).softmax(1), 1, generator=source)[:, 0]
        centre = (s**2 * x_t + level**2 * RING.means[chosen]) / (s**2 + level**2)
        z = torch.randn(x_t.shape, generator=source, dtype=x_t.dtype)
        return centre + s * level / (s**2 + level**2).sqrt() * z

    def some(self, n, k):
        return ReferenceFlow(RING.sample(n, generator(1000 + k)), None)


class DigitsPosterior:
    """The same for a finite set."""

    data = Mixture.finite(SEEN)

    def batch(self, n):
        return self.data.sample(n, generator())

    def draw(self, x_t, t, source):
        means = self.data.means.flatten(1)
        far = torch.cdist(x_t.flatten(1), means).square()
        chosen = torch.multinomial((-far / (2 * t[:, None] ** 2)).softmax(1), 1, generator=source)[:, 0]
        return self.data.means[chosen]

    def some(self, n, k):
        return Reference(n).given(lambda m: DIGITS.some(m, k, CPU))


def variances(posterior, level, size, n, times=40):
    """Of x_r, and of the target f(x_r), given x_t: with a reference, as a part of what they are without."""
    t = torch.full((n,), level, dtype=torch.float64)
    r, low = t / 2, torch.full((n * times,), 0.002, dtype=torch.float64)
    x_t, _ = noised(posterior.batch(n), t)
    source, ends = generator(1), []
    for k in range(times):
        x = posterior.draw(x_t, t, source)
        arguments = (x_t, t, r, x, (x_t - x) / expand(t, x), NONE)
        ends.append(torch.stack([flow.step(*arguments) for flow in (posterior.some(size, k), DataFlow())]))

    def ratio(y):
        of_reference, of_data = y.flatten(3).var(0).sum(-1).mean(-1)
        return (of_reference / of_data).item()

    ends = torch.stack(ends)  # [times, 2, n, ...]
    targets = [
        posterior.data.solve(part.flatten(0, 1), r.repeat(times), low, steps=8) for part in ends.unbind(1)
    ]
    return ratio(ends), ratio(torch.stack([y.reshape(ends[:, 0].shape) for y in targets], 1))


@pytest.mark.parametrize(
    ("level", "of_x_r", "of_target"), [(0.05, 0.2, 0.2), (0.2, 0.03, 0.04), (1, 0.01, 0.02), (20, 0.01, 0.02)]
)
def test_on_the_ring_the_variance_falls(level, of_x_r, of_target):
    """With 256 points. The references of a batch are shared, those of the forty draws are not."""
    found = variances(RingPosterior(), level, 256, n=64)
    assert (found[0] < of_x_r, found[1] < of_target) == (True, True), found


@pytest.mark.parametrize(
    ("level", "of_x_r", "of_target"), [(0.5, 0.6, 0.8), (1, 0.15, 0.5), (3, 0.01, 0.2), (20, 0.005, 0.1)]
)
def test_on_digits_the_variance_falls(level, of_x_r, of_target):
    """With 512 of the 1,797."""
    found = variances(DigitsPosterior(), level, 512, n=8)
    assert (found[0] < of_x_r, found[1] < of_target) == (True, True), found


def test_with_all_of_the_data_there_is_no_variance():
    flow, t = DigitsPosterior().some(1797, 0), torch.full((64,), 0.5, dtype=torch.float64)
    x = DigitsPosterior().batch(64)
    x_t, _ = noised(x, t)
    assert torch.equal(mean(flow, x_t, t, x), mean(flow, x_t, t, x.flip(0)))


# --- which samples ----------------------------------------------------------------------------------------


class Marked(DataModule):
    """Distinct images with a bright left column, so that mirror images can be told."""

    def load(self):
        x = torch.arange(100).to(torch.uint8).reshape(-1, 1, 1, 1).repeat(1, 1, 2, 2)
        x[..., 0] = 255
        return ArrayData(x, torch.arange(100) % 7)


def pixels(data, part):
    """Number of each sample and whether it is mirrored."""
    u = data.codec.decode(part.x)[:, 0, 0].long()
    return u.min(1).values, u[:, 1] == 255


def test_few_data_are_all_taken_each_once():
    data = Marked(batch_size=8, conditional=True)
    part = data.some(100, 0, CPU)
    number, mirrored = pixels(data, part)
    assert part.whole
    assert number.tolist() == list(range(100))
    assert torch.equal(part.c.label, number % 7)
    assert not mirrored.any()
    assert data.some(4096, 5, CPU) is part  # encoded once
    flow = Reference(100).given(lambda n: data.some(n, 0, CPU))
    assert (flow.own, flow.x is part.x, flow.label is part.c.label) == (False, True, True)


def test_mirror_images_are_data_too():
    data = Marked(batch_size=8, flip=True, conditional=True)
    number, mirrored = pixels(data, data.some(200, 0, CPU))
    assert sorted(zip(number.tolist(), mirrored.tolist(), strict=True)) == list(
        itertools.product(range(100), [False, True])
    )
    part = data.some(199, 0, CPU)  # one too few
    number, mirrored = pixels(data, part)
    assert not part.whole
    assert torch.equal(part.c.label, number % 7)
    assert abs(mirrored.float().mean() - 0.5) < 5 * 0.5 / 199**0.5
    assert Reference(199).given(lambda n: data.some(n, 0, CPU)).own


def test_a_part_is_drawn_from_all_with_its_labels():
    data = Marked(batch_size=8, conditional=True)
    counts = torch.zeros(100)
    for k in range(200):
        part = data.some(50, k, CPU)
        number, _ = pixels(data, part)
        assert torch.equal(part.c.label, number % 7)
        counts += torch.bincount(number, minlength=100)
    assert (counts - 100).abs().max() < 5 * 100**0.5


def test_a_part_is_a_function_of_seed_and_step():
    first = Marked(batch_size=8, seed=3).some(50, 7, CPU)
    torch.manual_seed(11)
    state = torch.get_rng_state()
    assert torch.equal(Marked(batch_size=8, seed=3).some(50, 7, CPU).x, first.x)  # as after a restart
    assert torch.equal(torch.get_rng_state(), state)
    for seed, k in ((3, 8), (4, 7)):
        assert not torch.equal(Marked(batch_size=8, seed=seed).some(50, k, CPU).x, first.x)


def test_points_are_served_as_they_are():
    data = Ring(points=50, batch_size=8)
    assert torch.equal(data.some(50, 0, CPU).x, data.data.x)
    assert data.some(50, 0, CPU).c.label is None
    moons = Moons(points=50, batch_size=8, conditional=True)
    assert torch.equal(moons.some(64, 0, CPU).c.label, moons.data.label)


@pytest.mark.parametrize("size", [0, -4])
def test_a_reference_of_nothing_is_refused(size):
    with pytest.raises(UserError, match=rf"flow\.size={size} must be at least 1"):
        Reference(size)


# --- training ---------------------------------------------------------------------------------------------


def built(*words):
    small = ["net.width=16", "net.blocks=1", "flow=reference"]
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        data, module = build(compose("train", overrides=[*small, *words]))
    module._trainer = SimpleNamespace(datamodule=data)
    return data, module


def served(data, n):
    label = None if data.data.label is None else data.data.label[:n]
    return data.codec.encode(data.data.x[:n]), given_label(label)


@pytest.mark.parametrize(
    "words",
    [
        ["method=ict", "data=ring", "budget=points", "data.points=9000"],
        ["experiment=ict_digits"],
        ["experiment=ict_digits", "flow.size=100", "data.conditional=true"],
        ["method=ct", "data=moons", "budget=points", "flow.size=100", "+data.conditional=true"],
        ["experiment=ect_ring"],
        ["experiment=sct_ring"],
    ],
)
def test_a_recipe_learns_with_it(words):
    data, module = built(*words)
    x, c = served(data, 16)
    optimizer = module.optimizer(module.model.parameters())
    before = [p.detach().clone() for p in module.model.parameters()]
    for k in range(3):
        loss = module.terms(x, c, k, StepDraws(0, STEPS, 0, k)).loss.mean()
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert any(not torch.equal(p, b) for p, b in zip(module.model.parameters(), before, strict=True))


def test_two_processes_learn_from_the_loss_of_one():
    data, module = built("experiment=ict_digits", "flow.size=100")
    x, _ = served(data, 32)
    with torch.no_grad():
        whole = module.terms(x, NONE, 4, StepDraws(0, STEPS, 0, 4)).loss
        halves = [
            module.terms(part, NONE, 4, StepDraws(0, STEPS, 0, 4, rank=rank, world=2)).loss
            for rank, part in enumerate(x.split(16))
        ]
        other = module.terms(x, NONE, 5, StepDraws(0, STEPS, 0, 4)).loss
    assert torch.allclose(torch.cat(halves), whole, rtol=1e-4, atol=1e-9)
    assert not torch.allclose(other, whole, rtol=1e-2)


def test_all_of_the_digits_are_the_exact_flow():
    """What `flow=reference` trains on by default, there: no estimate at all."""
    data, module = built("experiment=ict_digits")
    x, _ = served(data, 8)
    t = torch.full((8,), 1.3, dtype=torch.float64)
    x_t, z = noised(x, t)
    flow = module.flow.given(lambda n: data.some(n, 0, CPU))
    exact = Mixture.finite(data.codec.encode(data.real())).denoise(x_t, t)
    assert torch.allclose(flow.velocity(x_t, t, x, z, NONE), (x_t - exact) / 1.3, atol=1e-5)


WORDS = [*SMALL[1:], "flow=reference", "flow.size=200", "data.sample_batch=32", "curriculum.s1=40"]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path):
    one, two = (
        run("train.py", tmp_path / name, *WORDS, f"trainer={name}", "trainer.max_steps=20")
        for name in ("cpu", "ddp_sim")
    )
    assert (one.status, two.status) == (0, 0), one.err + two.err
    for name, value in one.result["metrics"].items():
        assert two.result["metrics"][name] == pytest.approx(value, rel=1e-3), name


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    words = [*WORDS, "trainer=cpu", "trainer.max_steps=300", "callbacks.checkpoints.every=20"]
    straight = run("train.py", tmp_path / "straight", *words)
    process = start("train.py", tmp_path / "stopped", *words)
    until((tmp_path / "stopped/checkpoints/last.ckpt").exists, "the first checkpoint", process)
    process.send_signal(signal.SIGTERM)
    _, err = ended(process)
    assert "stopped by SIGTERM at step" in err
    again = run("train.py", tmp_path / "stopped", *words, "ckpt_path=last")
    assert again.result["weights_sha256"] == straight.result["weights_sha256"]
    assert again.result["metrics"] == straight.result["metrics"]
