"""From a checkpoint to an answer: open it, hand it to a task, write result.json."""

import sys
import time
from pathlib import Path
from typing import Any

from lightning import Fabric
from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError
from consistency.lit.hardware import check_hardware
from consistency.metrics.card import Memo
from consistency.metrics.processes import rank
from consistency.result import commit, device_name, environment, line, where, write_result
from consistency.run import build, count, make, run_directory
from consistency.schema import check_composed, check_config
from consistency.table import markdown
from consistency.tasks.schedules import found_for, other_than, recipes_of
from consistency.tasks.session import Outcome, Session, Trained
from consistency.teachers.checkpoint import check_fits, read_trained, weights_of
from consistency.teachers.trust import check_trusted
from consistency.tensor import weights_sha256


def evaluate(config: DictConfig) -> dict[str, Any]:
    """Do a task; result.json stands in the run directory of the evaluation.

    Every process runs this; the first one speaks and writes.
    """
    check_composed(config, "eval")
    check_hardware(config.fabric)
    fabric: Fabric = make(config.fabric)
    fabric.launch()
    memo = Memo(None if config.cache is None else Path(config.cache) / "numbers")
    session = Session(
        run_directory(), fabric, config.fabric.precision, memo, commit(), lambda: opened(config, fabric)
    )
    since = time.monotonic()
    try:
        outcome: Outcome = make(config.task)(session)
    except KeyboardInterrupt:
        print("stopped: what was measured is kept; the same command goes on from there", file=sys.stderr)
        sys.exit(130)
    return report(session, outcome, time.monotonic() - since)


def opened(config: DictConfig, fabric: Fabric) -> Trained:
    """The checkpoint that was asked for, with its data and its network.

    Raises:
        UserError: there is none, or it cannot be used.
    """
    if config.ckpt_path is None:
        raise UserError("ckpt_path has no value: give one with ckpt_path=PATH, a .ckpt of a run")
    checkpoint = read_trained(config.ckpt_path)
    kept = {name: node for name, node in checkpoint["config"].items() if name not in ("callbacks", "logger")}
    check_trusted("ckpt_path", config.ckpt_path, OmegaConf.create(kept))
    trained = OmegaConf.merge(kept, config.override)
    written = OmegaConf.to_container(OmegaConf.merge(checkpoint["config"], config.override), resolve=True)
    assert isinstance(trained, DictConfig)
    assert isinstance(written, dict)
    check_config(trained, "train")
    for unused in {"distance"} & {*trained.module.objective}:
        trained.module.objective[unused] = None  # only training asks for it, and for the files it needs
    trained.threads = config.threads or trained.threads  # two threads slow a small network down
    data, module = build(trained)
    name, weights = weights_of(checkpoint, config.weights)
    check_fits(config.ckpt_path, weights, module.denoiser)
    module.denoiser.load_state_dict(weights)
    digest = weights_sha256(weights)
    module.to(fabric.device)
    found = found_for(Path(config.ckpt_path), digest, trained.sigma.min) if config.found else {}
    told = other_than(module.samplers, recipes_of(checkpoint.get("sigmas", {}), trained.sigma.min))
    return Trained(
        path=Path(config.ckpt_path),
        step=checkpoint["global_step"],
        experiment=checkpoint.get("experiment"),
        config=trained,
        written={str(key): value for key, value in written.items()},
        data=data,
        module=module.eval(),
        f=module.denoiser,
        weights=name,
        weights_sha256=digest,
        samplers={name: {**told, **found}.get(name, recipe) for name, recipe in module.samplers.items()},
        found=found,
        judge=make(config.get("metric") or trained.metric),
    )


def report(session: Session, outcome: Outcome, seconds: float) -> dict[str, Any]:
    """Write and print what came of it."""
    result: dict[str, Any] = {"metrics": outcome.metrics}
    paths = outcome.paths
    if "trained" in vars(session):
        t = session.trained
        result |= {
            "experiment": t.experiment,
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
        parts = (markdown(outcome.tables) if outcome.tables else "", where(result), line(result))
        print("\n".join(part for part in parts if part))
    return result
