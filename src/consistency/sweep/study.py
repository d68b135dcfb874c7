"""The study of a search: its trials in a file, which several searches may share and which survives a kill."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import distribution_to_json
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.pool import NullPool

from consistency.errors import UserError
from consistency.files.owned import check_own
from consistency.process.stops import put_off
from consistency.sweep.space import Space, distribution_holds

SQLITE = "sqlite:///"
SEARCH, DIRECTORY, RUN, STATE, REASON = "search", "directory", "run", "state", "reason"  # user attributes
READERS = ("optuna.storages", "optuna.trial._frozen", "sqlalchemy", "alembic")  # modules that read files
GRACE = 10  # seconds until the lock of a process that was killed while it wrote is broken

Sampler = Callable[[int], BaseSampler]  # number of a trial -> what proposes it


@dataclass(frozen=True)
class Storage:
    """A file that holds studies.

    Args:
        path: of the file.
        url: for a database of SQLite; None for a journal, a text file.
    """

    path: Path
    url: str | None = None

    @staticmethod
    def at(place: str) -> "Storage":
        """The storage at a path or URL.

        Raises:
            UserError: it is no file.
        """
        path = Path(place.removeprefix(SQLITE))
        if ":/" in str(path) or path.name in ("", ":memory:"):
            raise UserError(f"hydra.sweeper.storage={place} must be the path of a file, or sqlite:///FILE")
        return Storage(path, place if place.startswith(SQLITE) else None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of proposing trials inside the block; signals are deferred, damage is a UserError."""
        lock = self.path.with_name(f".{self.path.name}.alone")
        check_own(lock)
        with put_off(), FileLock(lock), self.read():
            yield

    @contextmanager
    def read(self) -> Iterator[None]:
        """Turn errors of a damaged or foreign file into a UserError that names it."""
        try:
            yield
        except UserError:
            raise
        except OSError as error:
            raise UserError(f"hydra.sweeper.storage={self.path}: {error.strerror or error}") from error
        except Exception as error:
            if not of_storage(error):
                raise
            raise self.damaged() from error

    def damaged(self) -> UserError:
        """The error for a damaged file."""
        return UserError(
            f"hydra.sweeper.storage={self.path} is damaged, or holds no study: move it away, and the same "
            "command begins a new study, which takes over the runs that have ended"
        )

    def open(self) -> BaseStorage:
        """Optuna's storage of the file.

        Raises:
            UserError: a link stands in its place, or a journal that is cut short.
        """
        if not self.path.is_dir():
            check_own(self.path)
        if self.url is not None:
            return RDBStorage(self.url, engine_kwargs={"poolclass": NullPool})  # closed after each use
        if self.path.is_file() and not ends_whole(self.path):
            raise self.damaged()
        lock = JournalFileSymlinkLock(str(self.path), grace_period=GRACE)
        return JournalStorage(JournalFileBackend(str(self.path), lock_obj=lock))


@contextmanager
def without_optuna_advice() -> Iterator[None]:
    """Hide Optuna's warnings about experimental parts."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=ExperimentalWarning)
        yield


def of_storage(error: Exception) -> bool:
    """Whether an error comes from reading a file of Optuna, not from a bug of this project."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in walk_tb(error.__traceback__)]
    return any(name.startswith(READERS) for name in names)


def ends_whole(path: Path) -> bool:
    """Whether a journal ends with a whole line. Optuna passes over another, and appends the next to it."""
    lines = path.read_bytes().splitlines(keepends=True)
    try:
        return not lines or (lines[-1].endswith(b"\n") and isinstance(json.loads(lines[-1]), dict))
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True)
class Trials:
    """The trials of a study.

    Args:
        study: of Optuna.
        storage: where it is kept.
        space: what is searched.
        sampler: what proposes a trial.
        directory: of this search, as seen from the storage; others may have trials in the same study.
    """

    study: optuna.Study
    storage: Storage
    space: Space
    sampler: Sampler
    directory: str

    @staticmethod
    def of(
        file: str,
        name: str,
        about: Mapping[str, Any],
        space: Space,
        sampler: Sampler,
        pruner: BasePruner | None,
        directory: Path,
    ) -> "Trials":
        """Open a study, or create it.

        Args:
            file: of the storage; its path, or sqlite:///FILE.
            name: of the study in it.
            about: what makes it this search and no other; `direction` among it.
            space: what is searched.
            sampler: number of a trial -> what proposes it.
            pruner: what ends a trial early; None for nothing.
            directory: of the sweep.

        Raises:
            UserError: the file is damaged, or the study is another search.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = Storage.at(file)
        storage.path.parent.mkdir(parents=True, exist_ok=True)
        wanted = {**about, **{f"space of {key}": distribution_to_json(one) for key, one in space.items()}}
        with storage.alone():
            opened = storage.open()
            options = {"study_name": name, "storage": opened, "pruner": pruner or NopPruner()}
            if name in optuna.get_all_study_names(opened):
                study = optuna.load_study(**options)
            else:
                study = optuna.create_study(**options, direction=about["direction"])
            if SEARCH not in study.user_attrs and not study.get_trials(deepcopy=False):
                study.set_user_attr(SEARCH, json.dumps(wanted, sort_keys=True))
            check_same_study(study, wanted, storage.path)
        place = os.path.relpath(directory.resolve(), storage.path.parent.resolve())
        return Trials(study, storage, space, sampler, place)

    def all(self) -> list[FrozenTrial]:
        """All trials by their number, including those of other searches."""
        with self.storage.read():
            return self.study.get_trials(deepcopy=False)

    def begun(self) -> list[FrozenTrial]:
        """Trials of this search that have not ended."""
        return [
            each
            for each in self.all()
            if each.state is TrialState.RUNNING
            and each.user_attrs.get(DIRECTORY) == self.directory
            and each.params.keys() == self.space.keys()
            and all(distribution_holds(self.space[key], value) for key, value in each.params.items())
        ]

    def propose(self, limit: int) -> FrozenTrial | None:
        """A new trial; None where the study has `limit` trials.

        It is written at once or not at all: after a kill the same trial is proposed.

        Args:
            limit: of trials, in any state.
        """
        with self.storage.alone():
            before = self.study.get_trials(deepcopy=False)
            if len(before) >= limit:
                return None
            self.study.add_trial(
                proposal(before, self.study, self.space, self.sampler(len(before)), self.directory)
            )
            return self.study.get_trials(deepcopy=False)[len(before)]

    def note(self, number: int, run: str) -> None:
        """Write the name of the run of a trial."""
        with put_off(), self.storage.read():
            if self.all()[number].user_attrs.get(RUN) != run:
                self.trial(number).set_user_attr(RUN, run)

    def report(self, number: int, step: int, value: float) -> None:
        """Write the value of a validation; for a step with a value, the first is kept."""
        with put_off(), self.storage.read():
            if step not in self.all()[number].intermediate_values:
                self.trial(number).report(value, step)

    def should_prune(self, number: int) -> bool:
        """Whether a trial should be pruned, by its last validation."""
        return self.trial(number).should_prune()

    def tell(self, number: int, state: TrialState, value: float | None, facts: Mapping[str, str]) -> None:
        """Write the end of a trial.

        Args:
            number: of the trial.
            state: COMPLETE, PRUNED or FAIL.
            value: of the metric; given for COMPLETE only.
            facts: kept as user attributes.
        """
        with put_off(), self.storage.read():
            if not self.all()[number].state.is_finished():  # another search may have ended it
                for key, text in facts.items():
                    self.trial(number).set_user_attr(key, text)
                self.study.tell(number, value, state)

    def trial(self, number: int) -> Trial:
        """The trial as an object of Optuna that can be changed."""
        return Trial(self.study, self.all()[number]._trial_id)


def proposal(
    before: Sequence[FrozenTrial], study: optuna.Study, space: Space, sampler: BaseSampler, directory: str
) -> FrozenTrial:
    """The next trial, a function of the former ones and of the sampler only.

    Raises:
        UserError: the sampler keeps its state elsewhere, and a search could not go on after a kill.
    """
    copy = optuna.create_study(direction=study.direction, sampler=sampler)
    copy.add_trials(before)
    copy.ask(space)
    made = copy.get_trials(deepcopy=False)[-1]
    if copy._storage.get_study_system_attrs(copy._study_id):
        kind = type(sampler).__name__
        raise UserError(
            f"hydra.sweeper.sampler: {kind} keeps a state beside the trials, and a search could not go on "
            "with it: choose another, such as optuna.samplers.TPESampler"
        )
    return create_trial(
        state=TrialState.RUNNING,
        params=made.params,
        distributions=made.distributions,
        user_attrs={DIRECTORY: directory},
        system_attrs=made.system_attrs,
    )


def check_same_study(study: optuna.Study, wanted: Mapping[str, Any], path: Path) -> None:
    """Refuse a study whose trials were measured in another way, or drawn from another space."""
    try:
        found = json.loads(study.user_attrs[SEARCH])
        keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        keys = ["made by another program"]
    if keys:
        raise UserError(
            f"hydra.sweeper.storage={path} holds another search by the name {study.study_name} (they differ "
            f"in {', '.join(keys)}): repeat its command, or give another run_dir or hydra.sweeper.study_name"
        )
