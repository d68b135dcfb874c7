"""Settings of other people's networks that change what is computed and that no tensor shows."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from consistency.errors import UserError
from consistency.files.paths import printable_path
from consistency.nets.layers import Attention, PositionalEmbedding
from consistency.teachers.unpickle import ModuleRecord
from consistency.teachers.values import brief_value
from consistency.teachers.weights import REMEDY

MOST = 32  # groups of a normalisation, in ADM and all that descends from it
FEWEST = 4  # channels of a group, in EDM


class Rule(Protocol):
    """How many groups a normalisation of so many channels has."""

    def __call__(self, channels: int) -> int:
        """The number of groups."""
        ...


def always(channels: int) -> int:
    """OpenAI's `GroupNorm32`."""
    return MOST


def by_width(channels: int) -> int:
    """EDM's `GroupNorm`."""
    return max(1, min(MOST, channels // FEWEST))


def check_groups(net: nn.Module, rule: Rule, path: str | Path, remedy: str) -> None:
    """Refuse a network that normalises other groups than the code that a file was written by.

    Args:
        net: that the file was read into.
        rule: of that code.
        path: of the file.
        remedy: for networks that can be mended.

    Raises:
        UserError: names the first normalisation; where its channels cannot be divided so, that code cannot
            have run at all.
    """
    for name, norm in net.named_modules():
        if not isinstance(norm, nn.GroupNorm):
            continue
        channels, groups = norm.num_channels, rule(norm.num_channels)
        if channels % groups:
            raise UserError(
                f"teacher.path={path}: such networks normalise {groups} groups of channels, and "
                f"the {channels} of {name} cannot be divided so; use a file as its authors published it"
            )
        if norm.num_groups != groups:
            raise UserError(
                f"teacher.path={path} was trained with {groups} groups in each normalisation of {channels} "
                f"channels, and net has {norm.num_groups} in {name}: {remedy}"
            )


def check_records(
    net: nn.Module, ema: ModuleRecord, modules: Iterable[tuple[str, str]], path: str | Path
) -> None:
    """Compare what the modules of an EDM file say of themselves; what they do not say is passed over.

    Args:
        net: that the file was read into.
        ema: the network of the file.
        modules: our names of modules, and the file's.
        path: of the file.

    Raises:
        UserError: names the first setting that differs.
    """
    there, here = dict(records(ema)), dict(net.named_modules())
    pairs = [pair for both in modules for pair in (both, tuple(name.rpartition(".")[0] for name in both))]
    for ours, its in dict.fromkeys(pairs):
        said = there[its].state if its in there else {}
        for field, value in settings(here.get(ours)).items():
            if not same(said.get(field, value), value):
                raise UserError(
                    f"teacher.path={path} is of another network: {printable_path(its)} has {field}="
                    f"{brief_value(said[field])} there and {value} here; {REMEDY}"
                )


def same(said: Any, value: float) -> bool:
    """Whether a setting of a file is a number of this value."""
    return isinstance(said, bool | int | float) and abs(said - value) <= 1e-9 * abs(value)


def records(record: ModuleRecord, prefix: str = "") -> Iterator[tuple[str, ModuleRecord]]:
    """The modules within a module, by name."""
    modules = record.state.get("_modules")
    for name, module in modules.items() if isinstance(modules, Mapping) else ():
        if isinstance(module, ModuleRecord):
            yield f"{prefix}{name}", module
            yield from records(module, f"{prefix}{name}.")


def settings(module: nn.Module | None) -> dict[str, Any]:
    """Such settings of a module of ours, as EDM calls them."""
    if isinstance(module, nn.GroupNorm):
        return {"num_groups": module.num_groups, "eps": module.eps}
    if isinstance(module, Attention):
        return {"num_heads": module.heads}
    if isinstance(module, PositionalEmbedding):
        return {"endpoint": module.shift == 1, "max_positions": 10_000}
    return {}
