"""Laws as the plain data that a config of them would be."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def described(part: Any) -> Any:
    """What builds an equal value: `_target_` and the fields of a frozen dataclass, and so on within.

    Args:
        part: a dataclass whose fields are its arguments, a container, a number, text or None.

    Raises:
        TypeError: something in it is none of these.
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
