"""The card of a number: the model that was judged, the protocol, and the program.

Two numbers may be compared if their cards differ in the model only. A number whose card is known need not be
computed again.
"""

import hashlib
import json
import math
import re
import sys
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from consistency.files.atomic import dispensable, write_text
from consistency.files.checksum import content_sha256
from consistency.files.configs import Package, trusted
from consistency.metrics.processes import from_first, rank
from consistency.process.notices import notice

VERSION = 1  # of the definition of the numbers; numbers of different versions are not compared
OURS = Package("consistency", (Path(__file__).parents[1],))
SHA256 = re.compile("[0-9a-f]{64}")
RANGES = {  # the possible values of metrics, by name
    "precision": (0.0, 1.0),
    "recall": (0.0, 1.0),
    "SSIM": (-1.0, 1.0),
    "IS": (1 - 1e-6, math.inf),
    "SW2": (0.0, math.inf),
    "residual": (0.0, math.inf),
}


@dataclass(frozen=True)
class Card:
    """The circumstances of a measurement, as plain data.

    Args:
        model: the judged model: experiment, step, hash of the weights and of their meaning.
        protocol: everything else that changes the number, such as the σ list and the seed.
        code: versions and hash of the program; a number is measured again when they change.
        commit: git commit of the program, for people; not part of the hash.
    """

    model: dict[str, Any]
    protocol: dict[str, Any]
    code: dict[str, Any]
    commit: str | None = None

    @property
    def digest(self) -> str:
        """Hash of all but the commit."""
        content = [self.model, self.protocol, self.code]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Number(NamedTuple):
    """The values of one measurement, with their card."""

    values: dict[str, float]  # by name of the metric
    card: Card

    def to_plain(self, name: str) -> dict[str, Any]:
        """The number as an entry of `numbers` in result.json, under the sampler's name."""
        return {"name": name, "values": self.values, "card": asdict(self.card)}


def number_from_plain(kept: dict[str, Any]) -> Number:
    """The number of an entry of result.json."""
    return Number(kept["values"], Card(**kept["card"]))


def forbidding_differences(a: Card, b: Card, allow: Collection[str] = ()) -> list[str]:
    """A text for each entry of the protocols that differs and is not in `allow`."""
    one, other = ({**card.protocol, "version": card.code["version"]} for card in (a, b))
    keys = [key for key in {**one, **other} if key not in allow and one.get(key) != other.get(key)]
    return [
        f"{key} is {hash_or_text(one.get(key))} in one and {hash_or_text(other.get(key))} in the other"
        for key in keys
    ]


def hash_or_text(value: Any) -> str:
    """A value as text; of a SHA-256 the first twelve digits."""
    text = "absent" if value is None else str(value)
    return f"{text[:12]}…" if SHA256.fullmatch(text) else text


def code_version() -> dict[str, Any]:
    """`VERSION`, hashes of this package and of trusted ones, versions of the numerical libraries."""
    libraries = {name: version(name) for name in ("torch", "torch-fidelity")}
    others = {package.name: source_sha256(package) for package in trusted()}
    return {
        "version": VERSION,
        "source_sha256": source_sha256(OURS),
        **({"packages_sha256": others} if others else {}),
        **libraries,
    }


@lru_cache(maxsize=8)
def source_sha256(package: Package) -> str:
    """Hash of the Python files of a package, names and contents."""
    digest = hashlib.sha256()
    for name, path in package.sources():
        digest.update(f"{name}\0".encode() + path.read_bytes())
    return digest.hexdigest()


def plausible(found: Any, needed: Collection[str] = ()) -> bool:
    """Whether a value read from disk is a dict of metrics by name, each NaN or within its range.

    Args:
        found: any value.
        needed: names that the dict must contain.
    """
    if not isinstance(found, dict) or not found or not found.keys() >= {*needed}:
        return False
    return all(in_range(value, *range_of(name)) for name, value in found.items())


def range_of(name: str) -> tuple[float, float]:
    """Bounds of a metric's values by its name, such as `FD(digits)` or `IS ±`; infinite if not known."""
    known = RANGES.get(name.removesuffix(" ±").partition("(")[0])
    return (0.0, math.inf) if known and name.endswith(" ±") else known or (-math.inf, math.inf)


def in_range(value: Any, low: float, high: float) -> bool:
    """Whether a value is NaN, or a number within float64 and in [low, high]."""
    if type(value) is int and abs(value) > sys.float_info.max:
        return False
    return type(value) in (int, float) and (math.isnan(value) or low <= value <= high)


Fits = Callable[[Any], bool]


@dataclass(frozen=True)
class Memo:
    """Measured numbers on disk, a file per card, so that a repeated evaluation measures only missing numbers.

    If the checksum, the name or the values of a file are wrong, its numbers are measured again.

    Args:
        directory: folder of the files; None to keep nothing.
    """

    directory: Path | None

    def recall(self, digest: str, fits: Fits = plausible) -> Any:
        """The value kept under a hash if it passes `fits`, else None; the same on every process."""
        return from_first(lambda: self._read(digest, fits))

    def keep(self, digest: str, value: dict[str, Any]) -> None:
        """Write plain data with the keys `card` and `found`; a failure to write is ignored."""
        if self.directory is None or rank():
            return
        content = json.loads(json.dumps(value))
        text = json.dumps({**content, "sha256": content_sha256(content)}, indent=1)
        with dispensable():
            write_text(self._path(digest), f"{text}\n", shared=True)

    def once(self, card: Card, make: Callable[[], Any], fits: Fits = plausible) -> Any:
        """The value that was kept for the card; else the value of `make`, which is then kept.

        Args:
            card: of the value.
            make: measures the value.
            fits: whether a value from disk is one that `make` could return.
        """
        found = self.recall(card.digest, fits)
        if found is None:
            found = make()
            self.keep(card.digest, {"card": asdict(card), "found": found})
            return found
        return found["found"]

    def _read(self, digest: str, fits: Fits) -> Any:
        if self.directory is None or not self._path(digest).is_file():
            return None
        try:
            kept = json.loads(self._path(digest).read_text("utf-8"))
            if kept.pop("sha256") == content_sha256(kept) and Card(**kept["card"]).digest == digest:
                return kept if fits(kept["found"]) else self._damaged(digest)
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            pass
        return self._damaged(digest)

    def _damaged(self, digest: str) -> None:
        notice(f"{self._path(digest)} is damaged: its numbers are measured anew")

    def _path(self, digest: str) -> Path:
        assert self.directory is not None
        return self.directory / f"{digest}.json"
