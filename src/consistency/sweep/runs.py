"""The runs of a sweep: those that ended, those that failed, and those that nobody has heard of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from consistency.errors import UserError
from consistency.files.atomic import write_text
from consistency.result import read_result

PLAN, FAULT = "plan.json", "failed.txt"  # in the sweep's directory, and in a run's


@dataclass(frozen=True)
class Run:
    """One run of a sweep.

    Args:
        words: its command line.
        result: its result.json, and `teacher_seconds` if a teacher was trained first; None unless it ended.
        fault: why there is no result; None where nothing is known to have gone wrong.
    """

    words: tuple[str, ...]
    result: dict[str, Any] | None = None
    fault: str | None = None

    def word(self, key: str) -> str | None:
        """What the command line says of a key."""
        return next((value for name, _, value in (w.partition("=") for w in self.words) if name == key), None)

    @property
    def seed(self) -> str | None:
        """The word for the seed."""
        return self.word("seed")

    @property
    def experiment(self) -> str:
        """The word for the experiment."""
        return self.word("experiment") or ""


def planned(config: DictConfig) -> list[list[str]]:
    """The words of each run, in the order of their numbers, as Hydra's own sweeper multiplies them out."""
    given = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    words = OverridesParser.create().parse_overrides([*given, *config.hydra.overrides.task])
    return BasicSweeper.split_arguments(words, None)[0]


def keep_plan(directory: Path, words: list[list[str]]) -> None:
    """Write down what is going to be run."""
    write_text(directory / PLAN, json.dumps(words, indent=2, ensure_ascii=False) + "\n")


def is_planned(directory: Path) -> bool:
    """Whether a directory is that of a sweep."""
    return (directory / PLAN).is_file()


def keep_fault(directory: Path, error: BaseException) -> str:
    """Write down, and return, why a run failed, in one line."""
    told = " ".join(reason(error).split())
    write_text(directory / FAULT, f"{told}\n")
    return told


def reason(error: BaseException) -> str:
    """What the user was told, if anything."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, UserError):
            return str(cause)
        cause = cause.__cause__
    return f"{type(error).__name__}: {error}"


def runs_of(directory: Path) -> list[Run]:
    """All runs that were planned, each with what came of it.

    Raises:
        UserError: the directory is not that of a sweep, or a file in it is damaged.
    """
    plan = read(directory / PLAN, f"give the directory of a sweep, which has a {PLAN}")
    if not (isinstance(plan, list) and all(isinstance(words, list) for words in plan)):
        raise UserError(f"{directory / PLAN} is no list of runs: repeat the sweep")
    return [run_of(directory / str(number), tuple(words)) for number, words in enumerate(plan)]


def run_of(directory: Path, words: tuple[str, ...]) -> Run:
    """What came of one run."""
    result = result_of(directory)
    if result is None:
        fault = directory / FAULT
        return Run(words, fault=fault.read_text().strip() if fault.is_file() else None)
    teacher = directory / "teacher" / "result.json"
    taught = read_result(teacher).get("seconds") if teacher.is_file() else None
    run = Run(words, result | {"teacher_seconds": taught})
    if (run.experiment, run.seed) != (result["experiment"], str(result["seed"])):
        return Run(words, fault=f"its directory holds {result['experiment']}, seed {result['seed']}")
    return run


def result_of(directory: Path) -> dict[str, Any] | None:
    """result.json of a run that has ended."""
    path = directory / "result.json"
    if not path.is_file():
        return None
    found = read(path, "delete it, and the run counts as failed")
    if not (isinstance(found, dict) and {"experiment", "seed", "metrics"} <= found.keys()):
        raise UserError(f"{path} is not the result of a run: delete it, and the run counts as failed")
    return found


def read(path: Path, remedy: str) -> Any:
    """What a file of JSON holds."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not JSON"
        raise UserError(f"{path} cannot be read ({reason}): {remedy}") from error
