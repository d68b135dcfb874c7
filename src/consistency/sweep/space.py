"""The search space: Hydra's overrides with intervals, ranges and choices, as distributions of Optuna."""

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.types import Override
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from consistency.errors import UserError

Space = dict[str, BaseDistribution]

FORMS = (
    "interval(a, b), int(interval(a, b)), range(a, b, step) or a,b,c; tag(log, interval(a, b)) on a log scale"
)


def flatten_params(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Parameters by their full keys, whether or not sections are nested."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flatten_params(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def split_space(params: Sequence[Override], given: Sequence[Override]) -> tuple[list[str], Space]:
    """Split overrides into those that all trials have, and the search space.

    Args:
        params: of the config.
        given: on the command line; a key that stands there replaces that of the config.

    Raises:
        UserError: nothing is searched, or a search space is none.
    """
    overrides = {signed_key(override): override for override in (*params, *given)}
    fixed = [str(each.input_line) for each in overrides.values() if not each.is_sweep_override()]
    space = {key: distribution(one) for key, one in overrides.items() if one.is_sweep_override()}
    for override in params:
        if overrides[signed_key(override)] is override and not override.is_sweep_override():
            raise UserError(f"hydra.sweeper.params: {override.input_line} is no search space: write {FORMS}")
    if not space:
        raise UserError(f"sweep=optuna has nothing to search: give a key a search space, KEY={FORMS}")
    return fixed, space


def signed_key(override: Override) -> str:
    """The key of an override, with its sign."""
    return override.get_key_element()


def distribution(override: Override) -> BaseDistribution:
    """The search space of an override.

    Raises:
        UserError: it is empty or not finite, or a logarithmic one that reaches 0.
    """
    try:
        if override.is_choice_sweep():
            return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))
        value: Any = override.value()
        log = "log" in value.tags
        if override.is_interval_sweep():
            return interval(value.start, value.end, log)
        return stepped_values(value.start, value.stop, value.step, log)
    except ValueError as error:
        why = str(error).rstrip(".")
        raise UserError(f"{override.input_line} is no search space ({why}): write {FORMS}") from error


def interval(low: float, high: float, log: bool) -> BaseDistribution:
    """The distribution of numbers from low to high; of integers if both are cast to int."""
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("its ends must be finite")
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log)
    return FloatDistribution(low, high, log)


def stepped_values(start: float, stop: float, step: float, log: bool) -> BaseDistribution:
    """The numbers of a range, without stop."""
    if not (step and all(map(math.isfinite, (start, stop, step)))):
        raise ValueError("its ends must be finite, and its step not 0")
    first, width = Decimal(str(start)), Decimal(str(step))
    count = math.ceil((Decimal(str(stop)) - first) / width)
    if count < 1:
        raise ValueError("it is empty")
    low, high = sorted([first, first + (count - 1) * width])
    if all(isinstance(each, int) for each in (start, stop, step)):
        return IntDistribution(int(low), int(high), log, int(abs(width)))
    return FloatDistribution(float(low), float(high), log, float(abs(width)))


def trial_overrides(params: Mapping[str, Any]) -> list[str]:
    """The overrides of a trial. Floats have all their digits, so that the same run is found again."""
    return [f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in params.items()]


def corners(space: Space) -> Iterator[dict[str, Any]]:
    """Yield parameters in which every choice occurs, to check early whether configs can be composed."""
    first = {key: next(values(one)) for key, one in space.items()}
    yield first
    for key, one in space.items():
        for value in values(one):
            if value != first[key]:
                yield {**first, key: value}


def values(one: BaseDistribution) -> Iterator[Any]:
    """The choices, or the ends of an interval."""
    if isinstance(one, CategoricalDistribution):
        yield from one.choices
    elif isinstance(one, FloatDistribution | IntDistribution):
        yield from (one.low, one.high)


def distribution_holds(one: BaseDistribution, value: Any) -> bool:
    """Whether a value from a file is in a distribution."""
    if isinstance(one, CategoricalDistribution):
        return value in one.choices
    kind = int if isinstance(one, IntDistribution) else float
    low, high = values(one)
    return type(value) is kind and low <= value <= high
