"""The file of σ lists beside a checkpoint: by SHA-256 of the weights, then by name of the sampler."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import inf, isfinite
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from consistency.errors import LARGEST_SEED, UserError
from consistency.files.atomic import explain_write, write_text
from consistency.files.checksum import content_sha256
from consistency.files.directory import LOCKLESS
from consistency.files.owned import check_own
from consistency.process.notices import notice
from consistency.teachers.values import check_count, check_levels, check_number, check_text

MOST = 16  # weights of a file, whose checkpoint may be replaced many times
LARGEST = 2**26  # bytes of a file that is read
NAME = re.compile(r"[0-9]{1,5}|[0-9A-Za-z_]{1,40}( \([^\x00-\x1f]{1,200}\))?")  # of a sampler, or of calls
BY_LEVEL = re.compile(r"([0-9]{1,5})(?:step|jump)?(?: \(.*\))?")  # which have a call for each level
PATIENCE = 60.0  # seconds to wait for another process that writes the same file


class Origin(NamedTuple):
    """By what a list was found.

    Args:
        metric: that became small, such as `FD(digits)`.
        value: of the list, on the noise of the search.
        count: samples of a trial.
        seed: of their noise.
        budget: trials for each number of levels.
    """

    metric: str
    value: float
    count: int
    seed: int
    budget: int

    def __str__(self) -> str:
        return f"{self.metric} {self.value:.4g} of {self.count:,} samples"

    def comparable(self, other: "Origin") -> bool:
        """Whether both were judged on the same samples by the same metric."""
        return (self.metric, self.count, self.seed) == (other.metric, other.count, other.seed)


class Listed(NamedTuple):
    """A σ list, falling; and its origin, None where an older version did not write it down."""

    sigmas: list[float]
    origin: Origin | None = None


Lists = dict[str, Listed]  # by name of the sampler, such as `2step` or `heun35`
Stored = dict[str, Lists]  # by SHA-256 of the weights; those that were written last stand last


def read_lists(path: Path, remedy: str) -> Stored | None:
    """All lists of a file; None of one without a checksum, as old versions wrote it. Empty without a file.

    Args:
        path: of the file, in this format or in the former one, which holds the lists of one model's weights.
        remedy: what to do about a damaged file, for the message.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("no such file is written")
        kept = json.loads(path.read_text(encoding="utf-8"))
        checksum = kept.pop("sha256", None)
        found = stored(kept) if "lists" in kept else former(kept)
        if checksum not in (None, content_sha256(kept)):
            raise ValueError("not what its checksum says")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {remedy}") from error
    return None if checksum is None else found


def stored(kept: Mapping[str, Any]) -> Stored:
    """Lists of a file as plain data, checked."""
    return {
        weights: dict(check_list(name, each["sigmas"], each["origin"]) for name, each in lists.items())
        for weights, lists in kept["lists"].items()
    }


def former(kept: Mapping[str, Any]) -> Stored:
    """The same of the former format."""
    return {kept["weights_sha256"]: dict(check_list(str(int(n)), each) for n, each in kept["sigmas"].items())}


def check_list(name: str, sigmas: Any, origin: Mapping[str, Any] | None = None) -> tuple[str, Listed]:
    """A sampler's name, and its noise levels with their origin, checked.

    A name that is but a number of calls is one of multistep sampling: older versions searched no other.

    Raises:
        ValueError: no name; a list of another length than it says, or one that is no list of falling σ above
            0; a wrong origin.
    """
    if not NAME.fullmatch(name):
        raise ValueError("no name of a sampler")
    found = check_levels(f"sigmas.{name}", sigmas)
    several = BY_LEVEL.fullmatch(name)
    if several is not None and len(found) != int(several[1]):
        raise ValueError(f"{len(found)} levels for {name}")
    known = Listed(found, None if origin is None else check_origin(Origin(**origin)))
    return (f"{name}step" if name.isdecimal() else name), known


def check_origin(origin: Origin) -> Origin:
    """Refuse an origin that no search has."""
    check_text("metric", origin.metric)
    check_number("value", origin.value)
    for name in ("count", "budget"):
        check_count(name, getattr(origin, name))
    if type(origin.seed) is not int or not 0 <= origin.seed <= LARGEST_SEED:
        raise ValueError("no seed")
    return origin


def merge_lists(path: Path, weights_sha256: str, found: Lists, remedy: str) -> None:
    """Add lists to a file, in which those of other weights and of other samplers stay.

    Of the same weights and sampler, the better list stays where both were judged by the same metric
    on as many samples of the same seed; else the new one, and a line says so. Two processes may do this at
    the same time.

    Args:
        path: of the file.
        weights_sha256: that the lists were found for.
        found: lists; those whose value is not finite are left out.
        remedy: see `read_lists`.

    Raises:
        UserError: the file is damaged.
        Unwritable: it cannot be written.
    """
    with alone(path):
        known = read_lists(path, remedy) or {}
        lists = known.pop(weights_sha256, {})
        for name, new in found.items():
            if new.origin is None or isfinite(value(new)):
                lists[name] = better_list(path, name, new, lists.get(name))
        known[weights_sha256] = dict(sorted(lists.items(), key=lambda item: (len(item[1].sigmas), item[0])))
        write_lists(path, bounded(path, known))


def better_list(path: Path, name: str, new: Listed, old: Listed | None) -> Listed:
    """Which of two lists for the same weights stays; a line where the new one is not known to be better."""
    if old is None:
        return new
    alike = old.origin is not None and new.origin is not None and new.origin.comparable(old.origin)
    better = alike and value(new) < value(old)
    if new.sigmas != old.sigmas and not better:
        what = "stays, no worse than" if alike else "is replaced by"
        notice(f"{path}: the list of {name} with {by(old)} {what} the new one with {by(new)}")
    return old if alike and not better else new


def value(listed: Listed) -> float:
    """By which lists that were judged alike are compared."""
    return inf if listed.origin is None else listed.origin.value


def by(listed: Listed) -> str:
    """How good a list is, as far as that was written down."""
    return "a value that is not known" if listed.origin is None else str(listed.origin)


def bounded(path: Path, known: Stored) -> Stored:
    """The lists of the weights that were written last."""
    left_out = len(known) - MOST
    if left_out > 0:
        notice(f"{path} keeps the lists of {MOST} weights; those of the oldest {left_out} were removed")
    return dict(list(known.items())[-MOST:])


def write_lists(path: Path, known: Stored) -> None:
    """Write all lists, with a checksum."""
    lists = {
        weights: {
            name: {"sigmas": each.sigmas, "origin": each.origin and each.origin._asdict()}
            for name, each in by_name.items()
        }
        for weights, by_name in known.items()
    }
    kept = {"lists": lists}
    write_text(path, json.dumps({**kept, "sha256": content_sha256(kept)}, indent=2) + "\n", shared=True)


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Hold a file, by a lock beside it, from reading it to writing it again.

    A file system may have no locks. Nothing is held then: of two writers at the same moment, one may lose
    its lists.

    Raises:
        UserError: another process holds it for a minute, or a link stands in place of the lock.
    """
    place = path.with_name(f".{path.name}.lock")
    with explain_write(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        check_own(place)
        lock = FileLock(place, thread_local=False)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            raise UserError(f"{path} is being written by another process: try again later") from None
        except (NotImplementedError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in LOCKLESS:
                raise
    try:
        yield
    finally:
        lock.release()
