"""From a checkpoint to an answer: open it, hand it to a task, write result.json."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Fabric
from omegaconf import DictConfig, OmegaConf

from consistency.build import make, run_directory
from consistency.command.checks import check_no_training
from consistency.errors import UserError
from consistency.files.directory import alone_in
from consistency.files.registry import UNBUILT, packages
from consistency.lit.callbacks.agreement import flat
from consistency.lit.peers import together
from consistency.lit.standing import ended, measured
from consistency.metrics.card import Memo
from consistency.metrics.processes import rank
from consistency.others import check_said, read_other
from consistency.process.notices import notice
from consistency.process.rank import speaks_for
from consistency.process.stops import account, nothing_begun, settle
from consistency.reopen import adapted, changed, check_codec, judge, rebuilt, without
from consistency.result import commit, device_name, ending, environment, write_result
from consistency.schema.check import check_composed, check_config
from consistency.schema.hardware import check_hardware
from consistency.summary import count
from consistency.sweep.single import check_free, check_single
from consistency.tasks.measure.families import named
from consistency.tasks.measure.schedules import REMEDY, found_for, path_of, taken_up
from consistency.tasks.session import Outcome, Session, Trained
from consistency.teachers.checkpoint import check_averages, read_named, weights_of
from consistency.teachers.debugged import debug_of
from consistency.tensor import weights_sha256


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Do a task; result.json stands in the run directory of the evaluation.

    Every process runs this; the first one speaks and writes.
    """
    check_composed(config, "eval")
    check_hardware(config.fabric)
    directory = run_directory()
    check_free(directory)
    check_no_training(directory)
    with alone_in(directory, speaks_for(config.fabric)), account(nothing_begun):
        return evaluated(config, directory)


def evaluated(config: DictConfig, directory: Path) -> dict[str, Any]:
    """The same in a directory that no other run works in."""
    fabric: Fabric = make(config.fabric)
    fabric.launch()
    memo = Memo(None if config.cache is None else Path(config.cache) / "numbers")
    asked = None if config.ckpt_path is None else Path(config.ckpt_path)
    session = Session(
        directory, fabric, config.fabric.precision, memo, commit(), lambda: opened(config, fabric), asked
    )
    since = time.monotonic()
    plain = OmegaConf.to_container(config, resolve=True)
    with together({"run_dir": directory.resolve(), "commit": session.commit, **flat(plain)}, directory):
        task = make(config.task)
        settle(partial(measured, directory))
        outcome: Outcome = task(session)
        return report(session, outcome, time.monotonic() - since)


def opened(config: DictConfig, fabric: Fabric) -> Trained:
    """The checkpoint that was asked for, with its data and its network.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if config.ckpt_path is None:
        raise UserError("ckpt_path has no value: give one with ckpt_path=PATH, a run or a .ckpt of it")
    check_single(config.ckpt_path, "ckpt_path")
    path, kept = contents(config)
    if cut := debug_of(kept["config"].content):
        notice(f"{path} is of a debug run ({cut}): its numbers are no result to compare")
    written, changes = changed(kept["config"], config)
    check_config(OmegaConf.create(without(written.plain(), *UNBUILT)), "train")
    brought = adapted(written, changes, config)
    trained = OmegaConf.create(without(brought.plain(), "callbacks", "logger"))
    OmegaConf.set_readonly(trained, True)
    name, weights = weights_of(kept, config.weights)
    data, module = rebuilt(brought, config, changes, weights)
    check_codec(path, kept, data, changes)
    check_averages(path, kept, module.model)
    module.model.load_state_dict(weights)
    digest = weights_sha256(weights)
    module.to(fabric.device)
    found = found_for(path, digest, module.samplers, trained.sigma.min) if config.found else {}
    brings = named(kept.get("sigmas", {}), module.samplers, trained.sigma.min)
    as_trained = Trained(
        path=path,
        step=kept["global_step"],
        experiment=kept.get("experiment"),
        config=trained,
        written=written.plain(),
        data=data,
        module=module.eval(),
        f=module.model,
        weights=name,
        weights_sha256=digest,
        samplers=module.samplers,
        found={},
        make_judge=cache(lambda: make(config.metric) if config.get("metric") else judge(brought)),
        follows=config.found,
    )
    rest = {name: sampler for name, sampler in brings.items() if name not in found}
    return taken_up(taken_up(as_trained, rest, path), found, path_of(path), REMEDY)


def contents(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """The file that is evaluated, and what it says: a checkpoint, or a file of others with what `as` adds.

    Raises:
        UserError: the file is refused.
    """
    if config.get("as") is not None:
        return read_other(config)
    try:
        return read_named(config.ckpt_path, trust=packages(config.trust))
    except UserError:
        check_said(config.ckpt_path)
        raise


def report(session: Session, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Write and print what came of it."""
    overrides = list(HydraConfig.get().overrides.task)
    result: dict[str, Any] = {"metrics": outcome.metrics, "overrides": overrides}
    paths = outcome.paths
    if "trained" in vars(session):
        t = session.trained
        result |= {
            "experiment": t.experiment,
            **({"debug": said.removeprefix("debug=")} if (said := debug_of(t.written)) else {}),
            "role": t.role,
            "steps": t.step,
            "images": outcome.images,
            "parameters": count(t.module),
            "weights_sha256": {t.weights: t.weights_sha256},
        }
        paths = {**paths, "checkpoint": str(t.path)}
    result |= {
        "seconds": seconds,
        "numbers": outcome.numbers,
        "device": device_name(session.fabric.device),
        "processes": session.fabric.world_size,
        **environment(),
        "paths": paths,
    }
    if rank() == 0:
        write_result(session.directory, result)
        settle(partial(ended, session.directory))
        print(ending(result, session.directory, outcome.text()))
    return result
