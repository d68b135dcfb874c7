"""An evaluation: open a checkpoint, do a task with it, write result.json."""

import time
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from lightning import Fabric
from omegaconf import DictConfig, OmegaConf

from consistency.build import compile_if_wanted, make, run_directory, set_seed_and_threads
from consistency.command.checks import check_no_training
from consistency.errors import UserError
from consistency.files.directory import alone_in
from consistency.files.registry import UNBUILT, packages
from consistency.library import opening
from consistency.lit.callbacks.agreement import flatten_config
from consistency.lit.peers import all_processes_agree
from consistency.lit.standing import completion_line, evaluation_progress
from consistency.metrics.card import Memo
from consistency.metrics.processes import rank
from consistency.model.maps import Map
from consistency.others import check_not_foreign, read_other
from consistency.process.notices import notice
from consistency.process.rank import speaks_for
from consistency.process.stops import account, nothing_begun, settle_account
from consistency.reopen import (
    apply_override,
    build_judge,
    data_of,
    redirect_cache,
    whole_number,
    without_sections,
)
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
    """Do the task of a config, and write result.json to the run directory of the evaluation.

    All processes run this; only the first one prints and writes.

    Returns:
        The content of result.json.
    """
    check_composed(config, "eval")
    check_hardware(config.fabric)
    directory = run_directory()
    check_free(directory)
    check_no_training(directory)
    with alone_in(directory, speaks_for(config.fabric)), account(nothing_begun):
        return run_task(config, directory)


def run_task(config: DictConfig, directory: Path) -> dict[str, Any]:
    """Do the task; the caller holds the lock of the directory."""
    fabric: Fabric = make(config.fabric)
    fabric.launch()
    memo = Memo(None if config.cache is None else Path(config.cache) / "numbers")
    path = None if config.ckpt_path is None else Path(config.ckpt_path)
    session = Session(
        directory,
        fabric,
        config.fabric.precision,
        memo,
        commit(),
        lambda: open_checkpoint(config, fabric),
        path,
    )
    since = time.monotonic()
    plain = OmegaConf.to_container(config, resolve=True)
    with all_processes_agree(
        {"run_dir": directory.resolve(), "commit": session.commit, **flatten_config(plain)}, directory
    ):
        task = make(config.task)
        settle_account(partial(evaluation_progress, directory))
        outcome: Outcome = task(session)
        return write_report(session, outcome, time.monotonic() - since)


def open_checkpoint(config: DictConfig, fabric: Fabric) -> Trained:
    """Open the checkpoint in `ckpt_path`, with its data and its network.

    Raises:
        UserError: there is none, or it is refused.
    """
    if config.ckpt_path is None:
        raise UserError("ckpt_path has no value: give one with ckpt_path=PATH, a run or a .ckpt of it")
    check_single(config.ckpt_path, "ckpt_path")
    path, kept = read_content(config)
    if cut := debug_of(kept["config"].content):
        notice(f"{path} is of a debug run ({cut}): its numbers are no result to compare")
    written, changes = apply_override(kept["config"], config)
    check_config(OmegaConf.create(without_sections(written.to_plain(), *UNBUILT)), "train")
    set_seed_and_threads(
        whole_number(written, "seed", 0), config.threads or whole_number(written, "threads", None)
    )
    model = opening.build_model(path, kept, written, config.weights)
    if isinstance(model.f, Map):
        compile_if_wanted(model.f, written.content.get("compile") is True)
    brought = redirect_cache(written, changes, config)
    data = data_of(brought, changes, model, Path(config.data_dir))
    trained = Trained(
        **vars(model.to(fabric.device)),
        own=opening.samplers_of(written),
        make_data=lambda: data,
        make_judge=cache(lambda: make(config.metric) if config.get("metric") else build_judge(brought)),
        file=written,
        use_found=config.found,
    )
    if not config.found:
        return trained
    digest = model.provenance.weights_sha256
    return use_found_lists(trained, read_found_samplers(path, digest, trained.own, model.sigma.min))


def read_content(config: DictConfig) -> tuple[Path, dict[str, Any]]:
    """Path and content of the file in `ckpt_path`: a checkpoint, or a foreign file completed by `as`.

    Raises:
        UserError: the file is refused.
    """
    if config.get("as") is not None:
        return read_other(config)
    try:
        return read_named(config.ckpt_path, trust=packages(config.trust))
    except UserError:
        check_not_foreign(config.ckpt_path)
        raise


def write_report(session: Session, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Write and print the result of a task; returns the content of result.json."""
    overrides = list(HydraConfig.get().overrides.task)
    result: dict[str, Any] = {"metrics": outcome.metrics, "overrides": overrides}
    paths = outcome.paths
    if "trained" in vars(session):
        t, where = session.trained, session.trained.provenance
        result |= {
            "experiment": where.experiment,
            **({"debug": option.removeprefix("debug=")} if (option := debug_of(where.config)) else {}),
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
        settle_account(partial(completion_line, session.directory))
        print(closing_lines(result, session.directory, outcome.text()))
    return result
