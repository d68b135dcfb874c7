"""Which of the measured numbers is meant."""

from collections.abc import Mapping
from typing import Any

from consistency.errors import UserError, nearest


def pick(name: str | None, metrics: Mapping[str, Any]) -> float | None:
    """The metric called `name`, in full or by its end after '/': `1step` for `FD(digits)/1step`.

    Raises:
        UserError: no metric is called so.
    """
    if name is None:
        return None
    for full, value in metrics.items():
        if name in (full, full.rpartition("/")[2]):
            return float(value)
    raise UserError(f"optimized_metric={name} was not measured: {nearest(name, metrics)}")
