"""Dataclasses as the plain data of a config that builds them."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def described(part: Any) -> Any:
    """The config that builds an equal value: `_target_` and the fields of a dataclass, recursively.

    Args:
        part: a dataclass whose fields are its arguments, a container, a number, text or None.

    Raises:
        TypeError: it contains a value of another type.
    """
    if is_dataclass(part) and not isinstance(part, type):
        kind = type(part)
        arguments = {each.name: described(getattr(part, each.name)) for each in fields(part)}
        return {"_target_": f"{kind.__module__}.{kind.__qualname__}", **arguments}
    if isinstance(part, Mapping):
        return {str(key): described(value) for key, value in part.items()}
    if isinstance(part, list | tuple):
        return [described(value) for value in part]
    if part is None or isinstance(part, str | int | float):
        return part
    raise TypeError(f"a {type(part).__name__} is no plain data")
