"""The run before the run: a student without a teacher has one trained first, in the same command."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf, open_dict

from consistency.command.paths import expand_homes, literal_arguments
from consistency.errors import UserError, printable
from consistency.files.checkpoints import newest
from consistency.files.configs import options
from consistency.files.paths import absent_path
from consistency.lit.consistency import check_same_meaning
from consistency.metrics.processes import from_first
from consistency.process.rank import is_first
from consistency.quoting import path_override
from consistency.result import read_result
from consistency.schema.recipes import BUDGETS, overrides_of
from consistency.schema.swaps import given_in
from consistency.sweep.single import check_single

SHARED = (  # overrides for both runs
    *("trust", "seed", "threads", "compile", "data_dir", "sigma", "data", "metric", "net"),
)

STUDENTS = "net.times"  # a teacher's network has one time, whatever the student's has


def find_teacher(config: DictConfig, directory: Path) -> Path | None:
    """The run directory of the student's teacher: named by `teacher.path`, or yet to be filled.

    Args:
        config: of the student; without a path, `teacher.path` is set to where `teacher_run` will leave one.
        directory: of the student.

    Raises:
        UserError: a student without a teacher, or a path that leads nowhere.
    """
    asks = any(OmegaConf.select(config, f"module.{role}") is not None for role in ("teacher", "start"))
    named = "teacher_run" in config and "path" in [*config.teacher]  # a missing value is a key
    if not asks:
        check_unread()
    if not (asks and named):
        return None
    path = OmegaConf.select(config, "teacher.path")
    asked = not OmegaConf.is_missing(config.teacher, "path") and config.teacher_run.experiment
    if path is not None or not asked:
        return teacher_directory(path)
    with open_dict(config):
        config.teacher.path = str(directory / "teacher")
    return directory / "teacher"


def check_unread() -> None:
    """Refuse a teacher on the command line of a run that has none."""
    given = given_in(tuple(HydraConfig.get().overrides.task))
    if found := next((key for key in given if key in ("teacher", "teacher.path")), None):
        method = HydraConfig.get().runtime.choices.get("method")
        raise UserError(
            f"{found}: method={method} has no teacher: leave it out, begin with its weights (start=teacher), "
            "or choose an experiment of distillation, such as experiment=cd_digits"
        )


def teach(config: DictConfig, directory: Path, train: Callable[[DictConfig, Path], Any]) -> None:
    """Train the teacher that is not there yet. One that was interrupted is gone on with.

    Args:
        config: of the student, after `find_teacher`.
        directory: of the student.
        train: trains as a config says, for the user of a directory.
    """
    place = directory / "teacher"
    if OmegaConf.select(config, "teacher.path") != str(place):
        return
    if from_first((place / "result.json").is_file):
        check_sound(place)
        return
    asked = config.teacher_run.experiment
    words = [*inherited(), *loggers(config), *config.teacher_run.overrides]
    with compose_teacher(asked, place, words) as teachers:
        check_start(config, teachers)
        say_once(f"teacher      {asked}, first, in {place}")
        train(teachers, directory)
    say_once(f"student      from the teacher in {place}")


def check_start(student: DictConfig, teacher: DictConfig) -> None:
    """Refuse a teacher whose weights the student cannot begin with, before it is trained.

    Raises:
        UserError: names what to choose instead.
    """
    if OmegaConf.select(student, "module.start") is None and not student.module.get("initialise"):
        return
    try:
        check_same_meaning(
            *(instantiate(config.model.precond, _convert_="all") for config in (student, teacher))
        )
    except UserError as error:
        given = list(student.teacher_run.overrides)
        why = f"; the teacher has teacher_run.overrides={given}" if given else ""
        raise UserError(f"{error}{why}") from error


def check_sound(place: Path) -> None:
    """Refuse a teacher that was trained for this student and that training has spoiled.

    Raises:
        UserError: it has, and the student is no run of a sweep, which goes on whatever becomes of its runs.
    """
    fault = (read_result(place / "result.json").get("verdict") or {}).get("fault")
    if fault is not None and HydraConfig.get().mode == RunMode.RUN:
        raise UserError(
            f"the teacher in {place}: {fault}; choose another run_dir, with a lower learning rate in "
            "'teacher_run.overrides=[\"optimizer.lr=VALUE\"]', or name another teacher with teacher.path"
        )


def say_once(line: str) -> None:
    """A line for the user, once, however many processes run."""
    if is_first():
        print(printable(line), flush=True)


def inherited() -> list[str]:
    """What the command line says of both runs: the data, the network, the seed, and on what they run."""
    given = [word for word in HydraConfig.get().overrides.task if "=" in word]
    keys = {word: word.lstrip("+").partition("=")[0] for word in given}
    both = [word for word, key in keys.items() if key.partition(".")[0] in SHARED and key != STUDENTS]
    choices = HydraConfig.get().runtime.choices
    return [*both, *(f"{group}='{choices[group]}'" for group in ("trainer", "debug"))]


def loggers(config: DictConfig) -> list[str]:
    """The overrides that give the teacher the loggers of the student."""
    used = [str(name) for name in OmegaConf.select(config, "logger") or ()]
    chosen = ",".join(name for name in used if name in options("logger"))
    given = [word for word in HydraConfig.get().overrides.task if word.lstrip("+").startswith("logger.")]
    return [f"logger=[{chosen or 'none'}]", *given]


@contextmanager
def compose_teacher(experiment: str, directory: Path, words: list[str]) -> Iterator[DictConfig]:
    """The config of another run, while Hydra believes that it is the one that runs.

    Args:
        experiment: its name, or that of a method on data, such as edm_moons.
        directory: where it works.
        words: other overrides; one of them replaces that of the same key among those the name stands for.
    """
    students = HydraConfig.instance().cfg
    mode, begun_in = (
        HydraConfig.get().mode,
        HydraConfig.get().run.dir,
    )  # where Lightning starts the other processes of this command
    places = {"run_dir": directory, "hydra.run.dir": begun_in, "hydra.runtime.output_dir": directory}
    overrides = [*literal_arguments(words), *(path_override(key, path) for key, path in places.items())]
    given = {*given_in(tuple(overrides))}
    chosen = [each for each in overrides_of(experiment) if each.partition("=")[0] not in given]
    config = compose("train", [*chosen, *overrides], return_hydra_config=True)
    expand_homes(config)
    with open_dict(config):
        config.hydra.mode = mode
        config.ckpt_path = "last" if from_first(lambda: newest(directory)) else None
    directory.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    try:
        yield config
    finally:
        HydraConfig.instance().cfg = students


def teacher_directory(path: str | None) -> Path | None:
    """The run directory that a path of a teacher leads to, if it is one."""
    if path is None:
        data = HydraConfig.get().runtime.choices.get("data")
        name = f"edm_{data}" if data in BUDGETS else "edm_digits"
        raise UserError(
            "teacher.path has no value: give a teacher's run directory or file, or an experiment that is run "
            f"first, such as teacher_run.experiment={name}"
        )
    if not Path(path).exists():
        raise absent_path("teacher.path", path)
    check_single(path, "teacher.path")
    place = Path(path) if Path(path).is_dir() else Path(path).parent.parent
    if not (place / "result.json").is_file():
        return None
    read_result(place / "result.json")  # refused now, not at the end of the student's training
    return place


def teacher_metrics(directory: Path | None) -> dict[str, float]:
    """What the teacher's own run measured, under `teacher/`."""
    if directory is None:
        return {}
    found = read_result(directory / "result.json")["metrics"]
    numbers = {name: math.nan if value is None else value for name, value in found.items()}
    return {f"teacher/{name}": value for name, value in numbers.items() if not name.endswith("/floor")}
