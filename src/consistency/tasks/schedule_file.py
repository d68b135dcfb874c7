"""The JSON file of σ lists beside a checkpoint, by SHA-256 of the weights and name of the sampler."""

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
    """The search that found a list.

    Args:
        metric: the minimised metric, such as `FD(digits)`.
        value: of the metric, for this list and the noise of the search.
        count: samples per trial.
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
        """Whether both values are of the same metric and the same noise."""
        return (self.metric, self.count, self.seed) == (other.metric, other.count, other.seed)


class SigmaList(NamedTuple):
    """A falling σ list, and the search that found it; None if an older version did not record it."""

    sigmas: list[float]
    origin: Origin | None = None


SigmaLists = dict[str, SigmaList]  # by name of the sampler, such as `2step` or `heun35`
StoredLists = dict[str, SigmaLists]  # by SHA-256 of the weights, the oldest first


def read_lists(path: Path, remedy: str) -> StoredLists | None:
    """All lists of a file; empty if there is no file, None for a file of an old version without a checksum.

    Args:
        path: of the file, in this format or in the former one, which has the lists of one model only.
        remedy: for the message about a damaged file.

    Raises:
        UserError: the file is damaged.
    """
    if not path.is_file():
        return {}
    try:
        if path.stat().st_size > LARGEST:
            raise ValueError("too large")
        kept = json.loads(path.read_text(encoding="utf-8"))
        checksum = kept.pop("sha256", None)
        found = parse_stored(kept) if "lists" in kept else parse_former(kept)
        if checksum not in (None, content_sha256(kept)):
            raise ValueError("wrong checksum")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UserError(f"{path} is damaged: {remedy}") from error
    return None if checksum is None else found


def parse_stored(kept: Mapping[str, Any]) -> StoredLists:
    """The content of a file in the present format, checked."""
    return {
        weights: dict(check_list(name, each["sigmas"], each["origin"]) for name, each in lists.items())
        for weights, lists in kept["lists"].items()
    }


def parse_former(kept: Mapping[str, Any]) -> StoredLists:
    """The content of a file in the former format, checked."""
    return {kept["weights_sha256"]: dict(check_list(str(int(n)), each) for n, each in kept["sigmas"].items())}


def check_list(name: str, sigmas: Any, origin: Mapping[str, Any] | None = None) -> tuple[str, SigmaList]:
    """A sampler's name, and its σ list with the origin, checked.

    Older versions searched lists of multistep sampling only and stored the number of calls as the name.

    Raises:
        ValueError: the name is not valid or gives another length than that of the list, the list is not one
            of falling σ above 0, or the origin is not valid.
    """
    if not NAME.fullmatch(name):
        raise ValueError("not the name of a sampler")
    found = check_levels(f"sigmas.{name}", sigmas)
    several = BY_LEVEL.fullmatch(name)
    if several is not None and len(found) != int(several[1]):
        raise ValueError(f"{len(found)} levels for {name}")
    known = SigmaList(found, None if origin is None else check_origin(Origin(**origin)))
    return (f"{name}step" if name.isdecimal() else name), known


def check_origin(origin: Origin) -> Origin:
    """Raise ValueError for an origin that no search can have."""
    check_text("metric", origin.metric)
    check_number("value", origin.value)
    for name in ("count", "budget"):
        check_count(name, getattr(origin, name))
    if type(origin.seed) is not int or not 0 <= origin.seed <= LARGEST_SEED:
        raise ValueError("not a seed")
    return origin


def merge_lists(path: Path, weights_sha256: str, found: SigmaLists, remedy: str) -> None:
    """Add lists to a file. Lists of other weights and of other samplers stay as they are.

    If the file has a list for the same weights and sampler, the better one stays if their origins are
    comparable; otherwise the new one replaces it with a notice. Two processes may do this at the same time.

    Args:
        path: of the file.
        weights_sha256: the weights that the lists were found for.
        found: lists by name of the sampler; those with a value that is not finite are left out.
        remedy: see `read_lists`.

    Raises:
        UserError: the file is damaged.
        Unwritable: it cannot be written.
    """
    with locked(path):
        known = read_lists(path, remedy) or {}
        lists = known.pop(weights_sha256, {})
        for name, new in found.items():
            if new.origin is None or isfinite(search_value(new)):
                lists[name] = better_list(path, name, new, lists.get(name))
        known[weights_sha256] = dict(sorted(lists.items(), key=lambda item: (len(item[1].sigmas), item[0])))
        write_lists(path, drop_oldest(path, known))


def better_list(path: Path, name: str, new: SigmaList, old: SigmaList | None) -> SigmaList:
    """The better of two lists for the same weights; a notice if the new one is not known to be better."""
    if old is None:
        return new
    comparable = old.origin is not None and new.origin is not None and new.origin.comparable(old.origin)
    better = comparable and search_value(new) < search_value(old)
    if new.sigmas != old.sigmas and not better:
        verb = "stays, no worse than" if comparable else "is replaced by"
        before, after = describe_origin(old), describe_origin(new)
        notice(f"{path}: the list of {name} with {before} {verb} the new one with {after}")
    return old if comparable and not better else new


def search_value(listed: SigmaList) -> float:
    """The metric's value in the search; infinite if it is not known."""
    return inf if listed.origin is None else listed.origin.value


def describe_origin(listed: SigmaList) -> str:
    """The metric's value and the number of samples, for messages."""
    return "a value that is not known" if listed.origin is None else str(listed.origin)


def drop_oldest(path: Path, known: StoredLists) -> StoredLists:
    """The lists of the `MOST` newest weights; a notice counts the others."""
    left_out = len(known) - MOST
    if left_out > 0:
        notice(f"{path} keeps the lists of {MOST} weights; those of the oldest {left_out} were removed")
    return dict(list(known.items())[-MOST:])


def write_lists(path: Path, known: StoredLists) -> None:
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
def locked(path: Path) -> Iterator[None]:
    """Lock a file while it is read and rewritten, by a lock file beside it.

    On a file system without locks the file is not locked: of two writers at the same time, one may lose its
    lists.

    Raises:
        UserError: another process holds the lock for a minute, or the lock file is a link.
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
