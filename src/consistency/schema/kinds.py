"""Checks of a value of a config by the type annotation of an argument, and types in words."""

import inspect
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from omegaconf import OmegaConf

from consistency.schema.targets import makes

SCALARS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
LISTS = (list, tuple, set, Sequence, Iterable, Collection)
MAPPINGS = (dict, Mapping)
PART = "a part (a mapping with _target_)"


def value_fits(value: Any, hint: Any) -> bool:
    """Whether a value of OmegaConf fits a type; a mapping with `_target_` counts as what it makes."""
    return any(fits_one(value, kind) for kind in union_members(hint))


def union_members(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the one type."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def fits_one(value: Any, kind: Any) -> bool:
    """The same for a type that is not a union."""
    if kind in (Any, object, inspect.Parameter.empty) or isinstance(kind, TypeVar):
        return True
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if OmegaConf.is_list(value):
        return (
            all(value_fits(item, hint) for item, hint in items(value, kind))
            if takes_lists(kind, value)
            else False
        )
    if OmegaConf.is_dict(value):
        if "_target_" in value:
            return kind not in SCALARS and kind is not NoneType and makes(value, kind)
        return generic_origin(kind) in MAPPINGS and all(
            value_fits(value[key], mapping_entry(kind)) for key in value
        )
    return fits_scalar(value, kind)


def fits_scalar(value: Any, kind: Any) -> bool:
    """`value_fits` for null, booleans, numbers and text."""
    if isinstance(value, bool) or value is None:
        return kind is type(value)
    if isinstance(value, int):
        return kind in (int, float)
    if isinstance(value, float):
        return kind is float and math.isfinite(value)
    if isinstance(value, str):
        return kind in (str, Path) or get_origin(kind) is PathLike or kind is PathLike
    return True  # an object that is there already


def generic_origin(kind: Any) -> Any:
    """`list` of list[int]."""
    return get_origin(kind) or kind


def takes_lists(kind: Any, value: Any) -> bool:
    """Whether a type accepts lists; a tuple type accepts those of its length."""
    fixed = get_args(kind) if generic_origin(kind) is tuple else ()
    return generic_origin(kind) in LISTS and (not fixed or fixed[-1] is Ellipsis or len(fixed) == len(value))


def items(value: Any, kind: Any) -> Iterable[tuple[Any, Any]]:
    """The items of a list, each with the type that it must have."""
    hints = get_args(kind) or (Any,)
    fixed = generic_origin(kind) is tuple and hints[-1] is not Ellipsis
    return zip(value, hints if fixed else hints[:1] * len(value), strict=False)


def mapping_entry(kind: Any) -> Any:
    """The type of the values of a mapping."""
    return (*get_args(kind), Any, Any)[1]


def misfit(path: str, value: Any, hint: Any) -> tuple[str, Any, Any] | None:
    """Key, value and type of the first value that does not fit, at any depth; None where all fit."""
    if value_fits(value, hint):
        return None
    for kind in union_members(hint):
        if OmegaConf.is_dict(value) and "_target_" not in value and generic_origin(kind) in MAPPINGS:
            inside = [misfit(f"{path}.{key}", value[key], mapping_entry(kind)) for key in value]
        elif OmegaConf.is_list(value) and takes_lists(kind, value):
            inside = [misfit(f"{path}[{i}]", *pair) for i, pair in enumerate(items(value, kind))]
        else:
            continue
        return next(found for found in inside if found)
    return path, value, hint


def kind_in_words(hint: Any) -> str:
    """A type in words, such as `a number or null`."""
    told = dict.fromkeys(word for kind in union_members(hint) if (word := one_in_words(kind)))
    if len(told) > 1 and any(kind in SCALARS for kind in union_members(hint)):
        told.pop(PART, None)  # as in float | Tensor
    last = ["null"] if NoneType in union_members(hint) else []
    return " or ".join([*told, *last])


def one_in_words(kind: Any) -> str:
    """The same for a type that is not a union."""
    if kind is NoneType:
        return ""
    if kind in SCALARS:
        return SCALARS[kind]
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    if generic_origin(kind) in MAPPINGS:
        return "a mapping" + (f" of {kind_in_words(mapping_entry(kind))}" if get_args(kind) else "")
    if generic_origin(kind) in LISTS:
        hints = get_args(kind)
        length = (
            f" of {len(hints)}"
            if generic_origin(kind) is tuple and hints and hints[-1] is not Ellipsis
            else ""
        )
        return f"a list{length}" + (f", each {kind_in_words(hints[0])}" if hints else "")
    return "text" if generic_origin(kind) is PathLike else PART


def yaml_text(value: Any, most: int = 60) -> str:
    """A value as YAML, cut to the length of a message."""
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= most else f"{text[:most]}…"
