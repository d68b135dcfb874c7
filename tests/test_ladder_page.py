"""The chart of a ladder can be read."""

from types import SimpleNamespace

import pytest

from consistency.tasks.show.ladder_page import Rung, Speed, ladder_chart


def labels(axis):
    """What is written along an axis, inside its limits."""
    low, high = axis.get_view_interval()
    return [
        label.get_text()
        for position, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if low <= position <= high
    ]


@pytest.mark.parametrize("times", [(0.31, 0.42, 0.9), (0.3, 0.9, 4.8), (1.1, 40.0, 900.0), (0.3, 20.0, 5e4)])
def test_logarithmic_axes_have_few_plain_numbers(times):
    rungs = [
        Rung(
            "student",
            f"{n}step",
            {"nfe": n},
            SimpleNamespace(values={"FD": 0.5 * 20**n}),
            Speed(t / 1e3, 1, 1),
        )
        for n, t in enumerate(times, 1)
    ]
    figure = ladder_chart("FD", rungs)
    figure.canvas.draw()
    calls, cost = figure.axes
    for axis in (cost.xaxis, calls.yaxis):
        some = labels(axis)
        assert 2 <= len(some) <= 9
        assert all(text.replace(".", "").isdecimal() for text in some)
        assert not any(label.get_text() for label in axis.get_ticklabels(minor=True))
