"""The choice of one metric by name."""

from collections.abc import Mapping
from typing import Any

from consistency.errors import UserError, nearest


def pick(name: str | None, metrics: Mapping[str, Any]) -> float | None:
    """The value of a metric by its full name or the part after '/': `1step` for `FD(digits)/1step`.

    Args:
        name: of the metric; None returns None.
        metrics: values by full name.

    Raises:
        UserError: no metric has this name.
    """
    if name is None:
        return None
    for full, value in metrics.items():
        if name in (full, full.rpartition("/")[2]):
            return float(value)
    raise UserError(f"optimized_metric={name} was not measured: {nearest(name, metrics)}")
