"""Callbacks watch; none of them changes what is learned."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from consistency.errors import UserError
from consistency.lit.callbacks.averages import EMA
from consistency.lit.callbacks.curriculum import Curriculum
from consistency.lit.callbacks.noise import NoiseLevels
from consistency.metrics.choice import pick
from consistency.schedule import decay
from consistency.watch import clock


class Trainer(SimpleNamespace):
    """As much of a trainer as a callback looks at."""

    global_step, max_steps, loggers, is_global_zero, log_every_n_steps = 0, 10, [], True, 5


def module():
    return SimpleNamespace(model=nn.Linear(2, 2))


def step(trainer, callback, m):
    with torch.no_grad():
        for p in m.model.parameters():
            p += 1
    trainer.global_step += 1
    callback.on_train_batch_end(trainer, m, None, None, 0)


def test_averages_follow_their_decays():
    ema = EMA({"fast": decay.Constant(0.5), "slow": decay.Constant(0.9)}, evaluate="slow")
    trainer, m = Trainer(), module()
    start = m.model.weight.detach().clone()
    ema.on_fit_start(trainer, m)
    for _ in range(2):
        step(trainer, ema, m)
    assert torch.allclose(ema.averages["fast"]["weight"], start + 0.5 * 0.5 + 0.5 * 2)
    assert torch.allclose(ema.averages["slow"]["weight"], start + 0.9 * 0.1 + 0.1 * 2)


def test_averages_move_once_per_optimiser_step():
    ema = EMA({"ema": decay.Constant(0.5)}, evaluate="ema")
    trainer, m = Trainer(), module()
    ema.on_fit_start(trainer, m)
    step(trainer, ema, m)
    before = ema.averages["ema"]["weight"].clone()
    ema.on_train_batch_end(trainer, m, None, None, 1)  # another part of an accumulated batch
    assert torch.equal(before, ema.averages["ema"]["weight"])


@pytest.mark.parametrize("end", ["on_validation_end", "on_exception"])
def test_the_average_is_seen_by_validation_and_by_nothing_else(end):
    ema = EMA({"ema": decay.Constant(0.5)}, evaluate="ema")
    trainer, m = Trainer(), module()
    ema.on_fit_start(trainer, m)
    step(trainer, ema, m)
    raw, average = m.model.weight.detach().clone(), ema.averages["ema"]["weight"].clone()
    assert not torch.equal(raw, average)
    ema.on_validation_start(trainer, m)
    assert torch.equal(m.model.weight, average)
    getattr(ema, end)(trainer, m, *([] if end == "on_validation_end" else [ValueError()]))
    assert torch.equal(m.model.weight, raw)
    assert torch.equal(ema.averages["ema"]["weight"], average)
    ema.on_exception(trainer, m, ValueError())  # a second exception swaps nothing
    assert torch.equal(m.model.weight, raw)


def test_averages_survive_a_checkpoint_to_the_bit():
    ema = EMA({"ema": decay.Constant(0.9)}, evaluate="ema")
    trainer, m = Trainer(), module()
    ema.on_fit_start(trainer, m)
    step(trainer, ema, m)
    other = EMA({"ema": decay.Constant(0.9)}, evaluate="ema")
    other.load_state_dict(ema.state_dict())
    other.on_fit_start(trainer, m)
    assert torch.equal(other.averages["ema"]["weight"], ema.averages["ema"]["weight"])
    step(trainer, ema, m)
    trainer.global_step -= 1
    with torch.no_grad():
        for p in m.model.parameters():
            p -= 1
    step(trainer, other, m)
    assert torch.equal(other.averages["ema"]["weight"], ema.averages["ema"]["weight"])


def test_an_average_that_is_not_there_is_refused():
    with pytest.raises(UserError, match="did you mean 'slow'"):
        EMA({"slow": decay.Constant(0.9)}, evaluate="slwo")


def test_a_horizon_that_is_not_the_runs_length_stops_it():
    Curriculum(None).on_fit_start(Trainer(), module())
    Curriculum(10).on_fit_start(Trainer(), module())
    with pytest.raises(UserError, match=r"curriculum\.K=11 .* trainer\.max_steps=10"):
        Curriculum(11).on_fit_start(Trainer(), module())


def test_changes_of_the_curriculum_are_logged_at_their_step():
    logged = []
    trainer = Trainer(loggers=[SimpleNamespace(log_metrics=lambda m, step: logged.append((step, m)))])
    watched = SimpleNamespace(progress=lambda k: {"N": 11 if k < 3 else 21})
    callback = Curriculum()
    for k in range(6):
        trainer.global_step = k
        callback.on_train_batch_start(trainer, watched)
    assert logged == [(0, {"curriculum/N": 11}), (3, {"curriculum/N": 21})]


def test_losses_are_sorted_by_sigma():
    logged = {}
    strategy = SimpleNamespace(reduce=lambda t, reduce_op: t)
    logger = SimpleNamespace(log_metrics=lambda m, step: logged.update(m))
    callback = NoiseLevels(0.01, 100.0, bins=4)  # edges 0.01, 0.1, 1, 10, 100
    sigma = torch.tensor([0.01, 0.05, 5.0, 100.0])
    outputs = {"sigma": sigma, "per_sample": torch.tensor([1.0, 3.0, 5.0, 7.0])}
    callback.on_train_batch_end(
        Trainer(global_step=5, strategy=strategy, loggers=[logger]), None, outputs, None, 0
    )
    assert list(logged.values()) == [2, 5, 7]
    assert [name.rpartition("/")[2] for name in logged] == ["0.01-0.1", "1-10", "10-100"]


def test_pick_takes_a_name_or_its_end():
    metrics = {"FD(digits)/1step": torch.tensor(3.0), "oracle_rmse": 0.5}
    assert pick("1step", metrics) == pick("FD(digits)/1step", metrics) == 3
    assert pick("oracle_rmse", metrics) == 0.5
    assert pick(None, metrics) is None
    with pytest.raises(UserError, match=r"optimized_metric=oracle_rms .*did you mean 'oracle_rmse'"):
        pick("oracle_rms", metrics)


def test_clock():
    assert clock(3725.4) == "1:02:05"
