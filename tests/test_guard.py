"""The guard stops what would spoil a run, names its σ, and leaves a healthy run as it is, to the bit."""

import math
import os
import signal
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from consistency.errors import UserError
from consistency.lit.callbacks.guard import BINS, Guard, gradient_norm, sample_moments, variance
from consistency.lit.divergence import Collapsed, Diverged
from consistency.lit.training import ConsistencyTraining
from consistency.metrics.spikes import PATIENCE, Spikes
from consistency.tensor import Terms
from tests.conftest import SMALL
from tests.conftest import run as process
from tests.sessions import train_here

TINY = [*SMALL, "threads=1", "net.width=16", "data.batch_size=16", "trainer.log_every_n_steps=10"]
WORDS = [*TINY, "trainer.max_steps=160", "trainer.val_check_interval=80", "callbacks.checkpoints.every=30"]
NAN = math.nan


class Poison(Callback):
    """Makes one sample NaN, in the first process, so many times in all; or asks the process to stop, once."""

    done = Counter()  # by directory: what has been done is not done again after a rollback

    def __init__(self, directory, step=100, times=1, part=0, stop=None):
        self.directory, self.step, self.times, self.part, self.stop = directory, step, times, part, stop

    def on_train_batch_start(self, trainer, pl_module, batch, index):
        here = trainer.global_step == self.step and index % trainer.accumulate_grad_batches == self.part
        if here and trainer.is_global_zero and self.done[self.directory] < self.times:
            self.done[self.directory] += 1
            batch.x[0] = NAN

    def on_train_batch_end(self, trainer, *_):
        went_back = self.done[self.directory] == self.times
        if trainer.global_step == self.stop and went_back and not self.done[self.directory, "stop"]:
            self.done[self.directory, "stop"] += 1
            os.kill(os.getpid(), signal.SIGTERM)

    def teardown(self, trainer, pl_module, stage):
        self.done[self.directory, "left"] += stage == "fit"


def poisoned(directory, **how):
    words = ", ".join(f"{key}: {value}" for key, value in {"directory": directory, **how}.items())
    return f"+callbacks.poison={{_target_: tests.test_guard.Poison, {words}}}"


@pytest.fixture(scope="module")
def train():
    """train(directory, *words): a run in this process; its result."""

    return lambda directory, *words: train_here(directory, *WORDS, *words)


@pytest.fixture(scope="module")
def healthy(train, tmp_path_factory):
    return train(tmp_path_factory.mktemp("healthy"))


@pytest.fixture(scope="module")
def recovered(train, tmp_path_factory):
    place = tmp_path_factory.mktemp("recovered")
    return train(place, poisoned(place))


def scalars(result, name):
    events = EventAccumulator(result["paths"]["tensorboard"])
    events.Reload()
    return {event.step: event.value for event in events.Scalars(name)}


def watch(spikes, steps):
    """The steps at which bins spike, and which."""
    found = [(k, spikes.observe(torch.as_tensor(x, dtype=torch.float64)).nonzero()[:, 0]) for k, x in steps]
    return [(k, bins.tolist()) for k, bins in found if len(bins)]


def noisy(mean, steps, bins=4, spread=0.2):
    noise = torch.randn(steps, bins, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return mean + spread * noise


@pytest.mark.parametrize("mean", [1.0, 0.0, -3.0])  # e^w d - w of a learned weight may be negative
def test_a_spike_is_found_where_it_is_and_only_there(mean):
    losses = noisy(mean, 300)
    losses[200:, 2] += 1000
    losses[200, 2] = 1e9  # which must not become the measure of what follows
    assert watch(Spikes(4, 10.0), enumerate(losses[: 200 + PATIENCE])) == [(199 + PATIENCE, [2])]


def test_less_than_patience_is_no_spike():
    losses = noisy(1.0, 300)
    for k in range(150, 300, PATIENCE):
        losses[k : k + PATIENCE - 1] = 1000
    assert not watch(Spikes(4, 10.0), enumerate(losses))


def test_heavy_tails_of_single_samples_are_no_spikes():
    losses = (2 * noisy(0.0, 5000, spread=1.0)).exp()  # mean 7.4, one in two hundred lies above 170
    losses[torch.rand(losses.shape, generator=torch.Generator().manual_seed(1)) < 0.5] = (
        NAN  # no sample at all
    )
    assert losses.nan_to_num(0).max() > 500
    assert not watch(Spikes(4, 10.0), enumerate(losses))


@pytest.mark.parametrize("factor", [4.0, 0.25])
def test_stages_of_a_curriculum_are_no_spikes(factor):
    stage = torch.arange(800) // 100
    assert not watch(Spikes(4, 10.0), enumerate(noisy(1.0, 800) * (factor ** stage[:, None])))


def test_what_an_untrained_network_learns_first_is_no_spike():
    losses = noisy(1.0, 300)
    losses[:, 3] = 1e-6 * torch.linspace(0, 1, 300).mul(50).exp().clamp(
        max=1e5
    )  # a hundred thousand times as much
    assert not watch(Spikes(4, 10.0), enumerate(losses))


def test_what_is_usual_survives_a_checkpoint():
    losses = noisy(1.0, 300)
    losses[199:] = 1000
    one, two = Spikes(4, 10.0), Spikes(4, 10.0)
    assert not watch(one, enumerate(losses[:202]))
    two.load_state_dict(one.state_dict())
    assert watch(two, enumerate(losses[202:204])) == [(PATIENCE - 4, [0, 1, 2, 3])]


def alert():
    return Guard(0.01, 100.0)  # three bins to a decade


def test_losses_that_are_not_finite_name_their_sigma():
    count, loss = torch.ones(BINS), torch.ones(BINS).double()
    loss[3], loss[4] = NAN, math.inf
    with pytest.raises(Diverged, match=r"the loss is not finite at step 7, σ from 0\.1 to 0\.464$") as caught:
        alert().check(7, loss, count, 1.0)
    assert (caught.value.step, caught.value.low) == (7, pytest.approx(0.1))


def test_a_gradient_that_is_not_finite_names_the_largest_loss():
    count, loss = torch.ones(BINS), torch.ones(BINS).double()
    loss[0], count[0], loss[11], count[11] = 0, 0, 5, 2  # a mean of 2.5
    with pytest.raises(Diverged, match=r"gradient .* largest is named\) at step 7, σ from 46\.4 to 100$"):
        alert().check(7, loss, count, math.inf)


def test_overflows_in_fp16_are_left_to_the_scaler():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.tensor([-2.0, 1.0, math.inf])
    optimizer = torch.optim.SGD([weight], lr=1.0)
    plain, scaled = (SimpleNamespace(precision_plugin=SimpleNamespace(scaler=s)) for s in (None, object()))
    assert (gradient_norm(plain, optimizer), gradient_norm(scaled, optimizer)) == (math.inf, 0)
    weight.grad[2] = 2
    assert gradient_norm(plain, optimizer) == 3


def test_variance_is_that_of_all_samples_together():
    x = torch.randn(10, 3, 2, 2, generator=torch.Generator().manual_seed(0)) + 5
    added = sample_moments(x[:4]) + sample_moments(x[4:])
    assert variance(added) == pytest.approx(x.var(0, unbiased=False).mean().item(), rel=1e-6)


@pytest.mark.parametrize("end", [0.02, NAN])
def test_only_samples_that_once_varied_can_collapse(end):
    watched = alert()
    for samples in (1e-6, 1e-7, 3.0, 0.12, 0.03):
        watched.compare("1step", samples, 0.25, 100)
    with pytest.raises(Collapsed, match=r"samples of 1step have collapsed .* at step 100, σ = 100$"):
        watched.compare("1step", end, 0.25, 100)
    watched.compare("4step", end, 0.25, 100)


def test_what_varied_is_remembered_by_a_checkpoint():
    one, two = alert(), alert()
    one.compare("1step", 0.25, 0.25, 100)
    two.load_state_dict(one.state_dict())
    with pytest.raises(Collapsed):
        two.compare("1step", 0.0, 0.25, 200)


def test_slower_twice_is_as_slow_as_once():
    module = SimpleNamespace(rate_factor=1.0)
    trainer = SimpleNamespace(logger=None, global_step=7)
    watched = Guard(0.01, 100.0, slower=0.5)
    watched.record.count = 1
    for _ in range(2):
        watched.on_train_start(trainer, module)
        assert module.rate_factor == 0.5


@pytest.mark.parametrize(
    ("key", "value"),
    [("rollbacks", -1), ("slower", 0), ("spike", 0), ("collapse", 1)],
)
def test_impossible_guards_are_refused_by_key(key, value):
    with pytest.raises(UserError, match=f"callbacks.guard.{key}={value}"):
        Guard(0.01, 100.0, **{key: value})


def test_a_healthy_run_is_the_same_without_a_guard(train, healthy, tmp_path):
    alone = train(tmp_path, "callbacks.guard=null")
    assert alone["weights_sha256"] == healthy["weights_sha256"]
    assert (alone["rollbacks"], healthy["rollbacks"]) == (0, 0)


def test_and_so_is_one_with_accumulation_and_dropout(train, tmp_path):
    words = ["trainer.accumulate_grad_batches=2", "net.dropout=0.2", "trainer.max_steps=20"]
    guarded, alone = (
        train(tmp_path / "guarded", *words),
        train(tmp_path / "alone", *words, "callbacks.guard=null"),
    )
    assert guarded["weights_sha256"] == alone["weights_sha256"]


def test_a_nan_at_step_100_is_recovered_from(healthy, recovered):
    assert (recovered["steps"], recovered["rollbacks"]) == (160, 1)
    assert recovered["weights_sha256"] != healthy["weights_sha256"]
    assert scalars(recovered, "guard/rollbacks") == {0: 0, 89: 0, 90: 1}
    assert scalars(recovered, "guard/factor") == {0: 1, 89: 1, 90: 0.5}


def test_the_learning_rate_is_lower_from_then_on(healthy, recovered):
    usual, lowered = scalars(healthy, "train/lr"), scalars(recovered, "train/lr")
    assert lowered == pytest.approx({k: lr if k < 90 else lr / 2 for k, lr in usual.items()}, rel=1e-6)


def test_a_run_that_went_back_is_resumed_exactly(train, recovered, tmp_path):
    words = [poisoned(tmp_path, stop=130)]
    with pytest.raises(SystemExit) as stopped:
        train(tmp_path, *words)
    assert stopped.value.code == 128 + signal.SIGTERM
    result = train(tmp_path, *words, "ckpt_path=last")
    assert result["weights_sha256"] == recovered["weights_sha256"]
    assert (result["rollbacks"], result["metrics"]) == (1, recovered["metrics"])
    assert result["verdict"] == recovered["verdict"]


def test_every_part_of_a_step_is_looked_at(train, tmp_path, capsys):
    words = [
        "trainer.accumulate_grad_batches=2",
        "trainer.max_steps=12",
        poisoned(tmp_path, step=10, times=2),
    ]
    assert train(tmp_path, *words)["rollbacks"] == 2
    assert Poison.done[str(tmp_path), "left"] == 3  # callbacks let go of what they hold each time
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("the loss is not finite at step 10, σ from ")
    assert first.endswith("back to the beginning, learning rate times 0.5 (rollback 1 of 3)")
    assert second.endswith("learning rate times 0.25 (rollback 2 of 3)")


def test_what_always_goes_wrong_ends_and_the_last_good_checkpoint_stays(train, tmp_path):
    with pytest.raises(
        UserError, match=r"at step 100, σ from .* after 2 rollbacks and with optimizer\.lr=\S+ times 0\.25:"
    ):
        train(tmp_path, poisoned(tmp_path, times=9), "callbacks.guard.rollbacks=2")
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert kept["global_step"] == 90
    assert all(weight.isfinite().all() for weight in kept["state_dict"].values())


def test_a_spike_that_comes_back_ends_with_its_sigma(train, tmp_path, monkeypatch):
    terms = ConsistencyTraining.terms

    def spiking(self, x, c, k, draws):
        loss, sigma = terms(self, x, c, k, draws)
        return Terms(torch.where((k >= 120) & (sigma > 0.4) & (sigma < 0.9), 1000 * loss, loss), sigma)

    monkeypatch.setattr(ConsistencyTraining, "terms", spiking)
    with pytest.raises(
        UserError, match=r"far above what is usual at step 12\d, σ from 0\.4 to 0\.967, after 1"
    ):
        train(tmp_path, "callbacks.guard.rollbacks=1")


def test_a_collapse_goes_back_to_the_best(train, tmp_path, monkeypatch):
    compared, compare = Counter(), Guard.compare

    def collapsing(self, name, samples, data, step):
        compared[step] += 1
        if step == 120 and compared[120] == 1:
            raise Collapsed("collapsed", step, 80.0, 80.0)
        compare(self, name, samples, data, step)

    monkeypatch.setattr(Guard, "compare", collapsing)
    result = train(tmp_path, "trainer.val_check_interval=60")
    assert (result["steps"], result["rollbacks"]) == (160, 1)
    assert scalars(result, "guard/rollbacks") == {
        0: 0,
        59: 0,
        60: 1,
    }


def test_a_checkpoint_waits_while_a_spike_may_have_begun(train, tmp_path, monkeypatch):
    observe = Spikes.observe

    def nervous(self, loss):
        spiked = observe(self, loss)
        self.calm = int(self.seen.max()) not in (30, 31)
        return spiked

    monkeypatch.setattr(Spikes, "observe", nervous)
    with pytest.raises(UserError):
        train(tmp_path, poisoned(tmp_path, step=40, times=9), "callbacks.guard.rollbacks=0")
    assert torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 32


def test_a_learning_rate_beyond_reason_ends_with_its_sigma_and_status_1(tmp_path):
    wild = process("train.py", tmp_path, *WORDS, "optimizer.lr=1e12")
    *tries, end = wild.err.strip().splitlines()
    assert (wild.status, len(tries)) == (1, 3)
    assert end.startswith("error: the loss is not finite at step 2, σ from ")
    assert not (tmp_path / "result.json").exists()


@pytest.mark.slow
def test_two_processes_go_back_together(train, tmp_path):
    """The other process has seen no NaN."""
    words = ["trainer.max_steps=30", "callbacks.checkpoints.every=8", "trainer.val_check_interval=30"]
    one = train(tmp_path / "one", poisoned(tmp_path / "one", step=20), *words)
    two = process("train.py", tmp_path / "two", *WORDS, "trainer=ddp_sim", poisoned("two", step=20), *words)
    assert two.status == 0, two.err
    assert (two.result["rollbacks"], two.err.count("rollback 1 of 3")) == (1, 1)
    for name, value in one["metrics"].items():
        assert two.result["metrics"][name] == pytest.approx(value, rel=1e-3), name
