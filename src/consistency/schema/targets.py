"""The arguments and results of a `_target_`, read from its annotations; nothing is built."""

import inspect
from collections.abc import Callable
from functools import lru_cache
from pydoc import locate
from typing import Any, NamedTuple, Unpack, get_args, get_origin, get_type_hints

from omegaconf import DictConfig


class Parameter(NamedTuple):
    """An argument of a target."""

    hint: Any
    required: bool


@lru_cache(maxsize=512)
def locate_target(target: str) -> Any:
    """Import the object of a name; None where that fails with any error."""
    try:
        return locate(target)  # unlike Hydra's own, it logs nothing
    except Exception:  # `instantiate` gives the reason later
        return None


@lru_cache(maxsize=512)
def parameters(target: str) -> dict[str, Parameter] | None:
    """The arguments of a target by name; None if it accepts any, or cannot be imported."""
    found, takes, narrowed = locate_target(target), dict[str, Parameter](), dict[str, Any]()
    for made in makers(found) if found is not None else ():
        arguments = {name: a for name, a in inspect.signature(made).parameters.items() if name != "self"}
        known = hints(made)
        named = {name: a for name, a in arguments.items() if a.kind != a.VAR_KEYWORD}
        takes = {name: parameter_of(a, known.get(name, Any)) for name, a in named.items()} | takes
        for name in arguments.keys() - named.keys():
            narrowed = typed_keywords(known.get(name)) | narrowed
        if len(named) == len(arguments):  # no **keywords are handed on
            return {name: p._replace(hint=narrowed.get(name, p.hint)) for name, p in takes.items()}
    return None


def typed_keywords(hint: Any) -> dict[str, Any]:
    """The annotations of **keywords: Unpack[TypedDict], by which a class narrows those of its base."""
    return get_type_hints(get_args(hint)[0]) if get_origin(hint) is Unpack else {}


def parameter_of(argument: inspect.Parameter, hint: Any) -> Parameter:
    """An argument as a config sees it; *positional ones need not be given."""
    return Parameter(hint, argument.default is argument.empty and argument.kind != argument.VAR_POSITIONAL)


def makers(target: Any) -> list[Callable[..., Any]]:
    """The functions whose arguments a target accepts: itself, and those that its **keywords are passed to.

    A subclass of ours in another package is taken to hand them on as well.
    """
    if not inspect.isclass(target):
        return [target]
    ours = any(base.__module__.startswith("consistency.") for base in target.__mro__)
    made = [base.__init__ for base in target.__mro__ if "__init__" in vars(base)]
    return made if ours else made[:1]


def hints(made: Callable[..., Any]) -> dict[str, Any]:
    """The annotations of arguments that can be resolved."""
    try:
        return get_type_hints(made)
    except (NameError, TypeError):
        return {}


def makes(node: DictConfig, kind: Any) -> bool:
    """Whether a node with `_target_` may make an object of a class or a protocol."""
    target = locate_target(str(node._target_))
    if target is None:
        return True
    if node.get("_partial_"):
        return partially(target, kind)
    made = target if inspect.isclass(target) else hints(target).get("return")
    return not inspect.isclass(made) or is_a(made, kind)


def partially(target: Any, kind: Any) -> bool:
    """Whether a partial function fits a type, a callable or a protocol."""
    return callable(target) and (
        get_origin(kind) is Callable or kind is Any or protocol_members(kind) == {"__call__"}
    )


def is_a(made: type, kind: Any) -> bool:
    """Whether the instances of a class fit a class or a protocol.

    An attribute that a constructor sets is taken to have the name of its argument.
    """
    kind = get_origin(kind) or kind
    if not inspect.isclass(kind):
        return True
    if not getattr(kind, "_is_protocol", False):
        return issubclass(made, kind)
    takes = parameters(f"{made.__module__}.{made.__qualname__}") or {}
    there = {name for base in made.__mro__ for name in vars(base)} | {*takes}
    return protocol_members(kind) <= there


def protocol_members(kind: Any) -> set[str]:
    """The members that a protocol requires."""
    bases = [base for base in getattr(kind, "__mro__", ()) if getattr(base, "_is_protocol", False)]
    names = {name for base in bases for name in (*vars(base), *inspect.get_annotations(base))}
    return {name for name in names if not name.startswith("_") or name == "__call__"}
