"""The run before the run: a student without a teacher has one trained first, in the same command."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from consistency.teachers.checkpoint import newest

SHARED = ("seed", "threads", "compile", "data_dir", "sigma", "data", "metric", "net")  # words for both runs


def taught(config: DictConfig, directory: Path, train: Callable[[DictConfig], Any]) -> Path | None:
    """The run directory of the teacher, which is trained first if it is asked for; None where there is none.

    A teacher that was interrupted is gone on with; one that is complete is used.

    Args:
        config: of the student; `teacher.path` is set to the teacher's directory.
        directory: of the student; the teacher's is `teacher` in it.
        train: what `train.py` calls.
    """
    asked = OmegaConf.select(config, "teacher_run.experiment")
    if asked is None or OmegaConf.select(config, "teacher.path", default="none") is not None:
        return run_of(OmegaConf.select(config, "teacher.path"))
    place = directory / "teacher"
    if not (place / "result.json").is_file():
        words = [*inherited(), *config.teacher_run.overrides]
        with composed(asked, place, words) as teachers:
            print(f"teacher      {asked}, first, in {place}")
            train(teachers)
        print(f"student      from the teacher in {place}")
    with open_dict(config):
        config.teacher.path = str(place)
    return place


def inherited() -> list[str]:
    """What the command line says of both runs: the data, the network, the seed, and on what they run."""
    given = [word for word in HydraConfig.get().overrides.task if "=" in word]
    both = [word for word in given if word.lstrip("+").partition("=")[0].partition(".")[0] in SHARED]
    return [*both, f"trainer={HydraConfig.get().runtime.choices['trainer']}"]


@contextmanager
def composed(experiment: str, directory: Path, words: list[str]) -> Iterator[DictConfig]:
    """The config of another experiment, while Hydra believes that it is the one that runs."""
    students = HydraConfig.instance().cfg
    place = [f"run_dir={directory}", f"hydra.run.dir={directory}", f"hydra.runtime.output_dir={directory}"]
    config = compose("train", [f"experiment={experiment}", *words, *place], return_hydra_config=True)
    with open_dict(config):
        config.ckpt_path = "last" if newest(directory) else None
    directory.mkdir(parents=True, exist_ok=True)
    HydraConfig.instance().set_config(config)
    with open_dict(config):
        del config["hydra"]
    try:
        yield config
    finally:
        HydraConfig.instance().cfg = students


def run_of(path: str | None) -> Path | None:
    """The run directory that a path of a teacher leads to, if it is one."""
    if path is None:
        return None
    place = Path(path) if Path(path).is_dir() else Path(path).parent.parent
    return place if (place / "result.json").is_file() else None


def teacher_metrics(directory: Path | None) -> dict[str, float]:
    """What the teacher's own run measured, under `teacher/`."""
    if directory is None:
        return {}
    found = json.loads((directory / "result.json").read_text())["metrics"]
    return {f"teacher/{name}": value for name, value in found.items() if not name.endswith("/floor")}
