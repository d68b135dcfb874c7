"""Descriptions of objects as plain values under dotted names, equal in every process."""

import inspect
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from consistency.tensor import weights_sha256

Origin = dict[str, str | int | float | None]


def describe_origin(name: str, value: Any) -> Origin:
    """A flat description: classes and functions by name, numbers by value, tensors and weights by hash.

    {"pairs": "GridPairs", "pairs.curriculum": "Constant", "pairs.curriculum.N": 18, ...}
    """
    return dict(walk_value(name, value))


def walk_value(name: str, value: Any) -> Iterator[tuple[str, str | int | float | None]]:
    """Yield the description of a value and of its parts, depth first."""
    if value is None or isinstance(value, str | int | float):
        yield name, value
    elif isinstance(value, Tensor):
        yield name, weights_sha256({"": value})
    elif isinstance(value, partial):
        yield from walk_value(name, value.func)
        yield from walk_parts(name, value.keywords)
    elif inspect.isroutine(value) or isinstance(value, type):
        yield name, value.__qualname__
    elif isinstance(value, nn.Module):
        yield name, type(value).__name__
        yield f"{name}.weights", weights_sha256(value.state_dict())
        yield from walk_parts(name, {key: law for key, law in vars(value).items() if is_dataclass(law)})
    elif is_dataclass(value):  # only its fields: other attributes follow from them
        yield name, type(value).__qualname__
        yield from walk_parts(name, {f.name: getattr(value, f.name) for f in fields(value)})
    else:
        yield name, type(value).__qualname__ if hasattr(value, "__dict__") else repr(value)
        yield from walk_parts(name, getattr(value, "__dict__", {}))


def walk_parts(name: str, held: dict[str, Any]) -> Iterator[tuple[str, str | int | float | None]]:
    """Yield the descriptions of named parts."""
    for key, value in held.items():
        yield from walk_value(f"{name}.{key}", value)


def first_difference(there: Origin, here: Origin) -> str | None:
    """A message with the first name whose values differ; None if all agree."""
    for name in [*here, *(n for n in there if n not in here)]:
        if there.get(name) != here.get(name):
            return (
                f"{name} is {shorten_value(there.get(name))} there and {shorten_value(here.get(name))} here"
            )
    return None


def shorten_value(value: Any) -> str:
    """A value as text for a message, cut after twelve characters if it is long."""
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."
