"""A signal that waits for long work is acknowledged."""

import os
import signal
import time
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from consistency.lit.callbacks import interruption
from consistency.lit.callbacks.interruption import Interruption
from consistency.process.late import Late
from consistency.process.stops import Interrupted

LINE = "SIGTERM: stopping when the work at hand is done; a second signal stops at once\n"


def test_a_signal_is_acknowledged_once_if_the_work_goes_on(capsys):
    late = Late(0.05)
    late.note(signal.SIGTERM)
    late.thread.join(10)
    late.end()
    assert capsys.readouterr().err == LINE


def test_no_line_where_the_work_ends_first(capsys):
    late = Late(60.0)
    late.note(signal.SIGTERM)
    begun = time.monotonic()
    late.end()
    assert time.monotonic() - begun < 30
    assert not late.thread.is_alive()
    assert capsys.readouterr().err == ""


def test_no_line_without_a_signal(capsys):
    late = Late(0.0)
    late.end()
    assert not late.thread.is_alive()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("slow", [True, False])
def test_training_acknowledges_a_signal_during_a_long_step(monkeypatch, capsys, slow):
    monkeypatch.setattr(interruption, "Late", partial(Late, 0.05 if slow else 60.0))
    former = signal.getsignal(signal.SIGTERM)
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision)
    trainer: Any = SimpleNamespace(world_size=1, global_step=7, strategy=strategy)
    module: Any = None
    callback = Interruption()
    callback.on_train_start(trainer, module)
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        if slow and callback.late is not None:
            callback.late.thread.join(10)
        with pytest.raises(Interrupted):
            callback.on_train_batch_end(trainer, module)
    finally:
        callback.on_exception(trainer, module, Interrupted(signal.SIGTERM))
        signal.signal(signal.SIGINT, callback.former[signal.SIGINT])
        signal.signal(signal.SIGTERM, former)
    assert callback.late is None
    assert capsys.readouterr().err == (LINE if slow else "")
