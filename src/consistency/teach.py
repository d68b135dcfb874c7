"""The training run of a teacher, before that of its student, in the same command (`teacher_run`)."""

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
from consistency.lit.consistency import check_same_scaling
from consistency.metrics.processes import from_first
from consistency.process.rank import is_first
from consistency.quoting import path_override
from consistency.result import read_result
from consistency.schema.recipes import BUDGETS, overrides_of
from consistency.schema.swaps import given_in
from consistency.sweep.single import check_single

SHARED = ("trust", "seed", "threads", "compile", "data_dir", "sigma", "data", "metric", "net")  # of both runs


def find_teacher(config: DictConfig, directory: Path) -> Path | None:
    """The run directory of the student's teacher, which may not be trained yet; None where there is none.

    Args:
        config: of the student. Where `teacher.path` has no value and `teacher_run.experiment` has one, the
            path is set to the directory `teacher` in that of the student.
        directory: of the student.

    Raises:
        UserError: the method needs a teacher and none is named, or its path does not exist.
    """
    required = any(OmegaConf.select(config, f"module.{role}") is not None for role in ("teacher", "start"))
    by_path = "teacher_run" in config and "path" in [*config.teacher]  # a missing value is a key
    if not required:
        check_teacher_unused()
    if not (required and by_path):
        return None
    path = OmegaConf.select(config, "teacher.path")
    to_train = not OmegaConf.is_missing(config.teacher, "path") and config.teacher_run.experiment
    if path is not None or not to_train:
        return teacher_directory(path)
    with open_dict(config):
        config.teacher.path = str(directory / "teacher")
    return directory / "teacher"


def check_teacher_unused() -> None:
    """Refuse a teacher on the command line of a run whose method has none."""
    keys = given_in(tuple(HydraConfig.get().overrides.task))
    if found := next((key for key in keys if key in ("teacher", "teacher.path")), None):
        method = HydraConfig.get().runtime.choices.get("method")
        raise UserError(
            f"{found}: method={method} has no teacher: leave it out, begin with its weights (start=teacher), "
            "or choose an experiment of distillation, such as experiment=cd_digits"
        )


def teach(config: DictConfig, directory: Path, train: Callable[[DictConfig, Path], Any]) -> None:
    """Train the teacher, or resume its training, unless its result is there.

    Args:
        config: of the student, after `find_teacher`.
        directory: of the student.
        train: `consistency.run.train`, called with the teacher's config and the student's directory.
    """
    teacher_run = directory / "teacher"
    if OmegaConf.select(config, "teacher.path") != str(teacher_run):
        return
    if from_first((teacher_run / "result.json").is_file):
        check_teacher_verdict(teacher_run)
        return
    experiment = config.teacher_run.experiment
    overrides = [*inherited_overrides(), *logger_overrides(config), *config.teacher_run.overrides]
    with compose_teacher(experiment, teacher_run, overrides) as teacher_config:
        check_teacher_scaling(config, teacher_config)
        print_once(f"teacher      {experiment}, first, in {teacher_run}")
        train(teacher_config, directory)
    print_once(f"student      from the teacher in {teacher_run}")


def check_teacher_scaling(student: DictConfig, teacher: DictConfig) -> None:
    """Refuse a teacher whose weights the student could not start from, before the teacher is trained.

    Raises:
        UserError: their preconditioners differ; names what to choose instead.
    """
    if OmegaConf.select(student, "module.start") is None and not student.module.get("initialise"):
        return
    try:
        check_same_scaling(
            *(instantiate(config.model.precond, _convert_="all") for config in (student, teacher))
        )
    except UserError as error:
        overrides = list(student.teacher_run.overrides)
        why = f"; the teacher has teacher_run.overrides={overrides}" if overrides else ""
        raise UserError(f"{error}{why}") from error


def check_teacher_verdict(directory: Path) -> None:
    """Refuse a teacher, trained for this student, whose result has a fault; see `callbacks.verdict`.

    Raises:
        UserError: it has one, and the student is no run of a sweep.
    """
    fault = (read_result(directory / "result.json").get("verdict") or {}).get("fault")
    if fault is not None and HydraConfig.get().mode == RunMode.RUN:
        raise UserError(
            f"the teacher in {directory}: {fault}; choose another run_dir, with a lower learning rate in "
            "'teacher_run.overrides=[\"optimizer.lr=VALUE\"]', or name another teacher with teacher.path"
        )


def print_once(line: str) -> None:
    """Print a line on the first process only."""
    if is_first():
        print(printable(line), flush=True)


def inherited_overrides() -> list[str]:
    """Overrides of the command line that hold for the teacher as well: data, network, seed and hardware."""
    overrides = [override for override in HydraConfig.get().overrides.task if "=" in override]
    shared = [o for o in overrides if o.lstrip("+").partition("=")[0].partition(".")[0] in SHARED]
    choices = HydraConfig.get().runtime.choices
    return [*shared, *(f"{group}='{choices[group]}'" for group in ("trainer", "debug"))]


def logger_overrides(config: DictConfig) -> list[str]:
    """The overrides that give the teacher the loggers of the student."""
    used = [str(name) for name in OmegaConf.select(config, "logger") or ()]
    chosen = ",".join(name for name in used if name in options("logger"))
    options_of_loggers = [o for o in HydraConfig.get().overrides.task if o.lstrip("+").startswith("logger.")]
    return [f"logger=[{chosen or 'none'}]", *options_of_loggers]


@contextmanager
def compose_teacher(experiment: str, directory: Path, extra: list[str]) -> Iterator[DictConfig]:
    """The config of the teacher's run; inside the context, `HydraConfig` describes that run.

    Args:
        experiment: name of an experiment, or of a method and data, such as edm_moons.
        directory: of the teacher's run.
        extra: further overrides, which replace those of the same key in the experiment.
    """
    student_config, mode = HydraConfig.instance().cfg, HydraConfig.get().mode
    launch_directory = HydraConfig.get().run.dir  # where Lightning starts the other processes of this command
    paths = {"run_dir": directory, "hydra.run.dir": launch_directory, "hydra.runtime.output_dir": directory}
    overrides = [*literal_arguments(extra), *(path_override(key, path) for key, path in paths.items())]
    replaced = {*given_in(tuple(overrides))}
    kept = [each for each in overrides_of(experiment) if each.partition("=")[0] not in replaced]
    config = compose("train", [*kept, *overrides], return_hydra_config=True)
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
        HydraConfig.instance().cfg = student_config


def teacher_directory(path: str | None) -> Path | None:
    """The run directory that `teacher.path` leads to; None where there is no result.json.

    Raises:
        UserError: there is no path, it does not exist, or its result.json is damaged.
    """
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
    directory = Path(path) if Path(path).is_dir() else Path(path).parent.parent
    if not (directory / "result.json").is_file():
        return None
    read_result(directory / "result.json")  # a damaged one is refused now, not after the student's training
    return directory


def teacher_metrics(directory: Path | None) -> dict[str, float]:
    """The metrics in the result of the teacher's run, as `teacher/NAME`, without the floors of its judge."""
    if directory is None:
        return {}
    found = read_result(directory / "result.json")["metrics"]
    numbers = {name: math.nan if value is None else value for name, value in found.items()}
    return {f"teacher/{name}": value for name, value in numbers.items() if not name.endswith("/floor")}
