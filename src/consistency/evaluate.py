"""From a checkpoint to an answer: open it, hand it to a task, write result.json."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Fabric
from omegaconf import DictConfig, OmegaConf

from consistency.build import begin, compile_if_wanted, make, run_directory
from consistency.command.checks import check_no_training
from consistency.errors import UserError
from consistency.files.directory import alone_in
from consistency.files.registry import UNBUILT, packages
from consistency.library import opening
from consistency.lit.callbacks.agreement import flatten_config
from consistency.lit.peers import in_step
from consistency.lit.standing import all_done, measured_so_far
from consistency.metrics.card import Memo
from consistency.metrics.processes import rank
from consistency.model.maps import Map
from consistency.others import check_said, read_other
from consistency.process.notices import notice
from consistency.process.rank import speaks_for
from consistency.process.stops import account, nothing_begun, settle_account
from consistency.reopen import adapted, changed, data_of, judge, number, without
from consistency.result import closing_lines, commit, device_name, versions_and_commit, write_result
from consistency.schema.check import check_composed, check_config
from consistency.schema.hardware import check_hardware
from consistency.summary import count_parameters
from consistency.sweep.single import check_free, check_single
from consistency.tasks.schedules import read_found_samplers, use_found_lists
from consistency.tasks.session import Outcome, Session, Trained
from consistency.teachers.checkpoint import read_named
from consistency.teachers.debugged import debug_of


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
    with in_step(
        {"run_dir": directory.resolve(), "commit": session.commit, **flatten_config(plain)}, directory
    ):
        task = make(config.task)
        settle_account(partial(measured_so_far, directory))
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
    check_config(OmegaConf.create(without(written.to_plain(), *UNBUILT)), "train")
    begin(number(written, "seed", 0), config.threads or number(written, "threads", None))
    model = opening.opened(path, kept, written, config.weights)
    if isinstance(model.f, Map):
        compile_if_wanted(model.f, written.content.get("compile") is True)
    brought = adapted(written, changes, config)
    data = data_of(brought, changes, model, Path(config.data_dir))
    trained = Trained(
        **vars(model.to(fabric.device)),
        own=opening.samplers_of(written),
        make_data=lambda: data,
        make_judge=cache(lambda: make(config.metric) if config.get("metric") else judge(brought)),
        file=written,
        use_found=config.found,
    )
    if not config.found:
        return trained
    digest = model.provenance.weights_sha256
    return use_found_lists(trained, read_found_samplers(path, digest, trained.own, model.sigma.min))


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
        t, where = session.trained, session.trained.provenance
        result |= {
            "experiment": where.experiment,
            **({"debug": said.removeprefix("debug=")} if (said := debug_of(where.config)) else {}),
            "role": t.role,
            "steps": where.step,
            "images": outcome.images,
            "parameters": count_parameters(t.f),
            "weights_sha256": {where.weights: where.weights_sha256},
        }
        paths = {**paths, "checkpoint": str(where.path)}
    result |= {
        "seconds": seconds,
        "numbers": outcome.numbers,
        "device": device_name(session.fabric.device),
        "processes": session.fabric.world_size,
        **versions_and_commit(),
        "paths": paths,
    }
    if rank() == 0:
        write_result(session.directory, result)
        settle_account(partial(all_done, session.directory))
        print(closing_lines(result, session.directory, outcome.text()))
    return result
