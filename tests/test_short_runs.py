"""The numbers of a short run are those of a network that has learned, whatever the average of its weights."""

import pytest

from tests.sessions import train_here

SHORT = ["trainer=cpu", "trainer.max_steps=100", "data.batch_size=64", "data.samples=64", "threads=1"]
LIGHT = ["callbacks.signals.count=16", "callbacks.oracle.points=256", "logger={}"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """measured(name, *overrides): RMSE to the exact function after 100 steps, and that of the raw weights."""

    def numbers(name, *overrides):
        directory = tmp_path_factory.mktemp(name)
        return train_here(directory, *SHORT, *LIGHT, *overrides)["metrics"]["oracle_rmse"]

    return numbers


@pytest.fixture(scope="module")
def untrained(measured):
    return measured("untrained", "experiment=scd_ring", "optimizer.lr=1e-12")


@pytest.mark.parametrize("overrides", [["experiment=scd_ring"], ["experiment=sct_ring", "flow=reference"]])
def test_a_hundred_steps_are_seen_in_the_numbers(measured, untrained, overrides):
    assert measured("ramped", *overrides) < 0.9 * untrained
    forgets = measured("unramped", *overrides, "ema.rampup=null")
    assert forgets == pytest.approx(untrained, rel=0.15)  # what the ramp is for
