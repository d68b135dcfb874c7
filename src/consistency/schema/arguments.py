"""Arguments of Lightning's Trainer that this project does not support: each is refused with an alternative.

Batches are endless and a function of their number, steps are the only clock, and a result says how many
samples it was measured on: an argument that cuts epochs or validations short would be ignored, or would make
the numbers of a run other than what stands beside them.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from consistency.errors import UserError

STEPS = "set trainer.max_steps"
UNTESTED = "training neither tests nor predicts: use eval.py, or consistency-eval where it is installed"
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
SHORT = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}  # Lightning's older names
WHOLE = ("auto", "ddp", "single_device")  # beginnings of strategies that keep the network whole
TASKS = "SLURM_NTASKS_PER_NODE"
INTERACTIVE = ("bash", "interactive")  # jobs of SLURM that start no processes


class Argument(NamedTuple):
    """An argument of which only some values are allowed, and the reason.

    Args:
        allowed: its values that change nothing.
        remedy: what to do instead.
    """

    allowed: Callable[[Any], bool]
    remedy: str


def one_of(*values: Any) -> Callable[[Any], bool]:
    """A test whether a value is one of these and of the same type: 1 is not true, and 1.0 is not 1."""
    return lambda value: any(type(value) is type(v) and value == v for v in values)


NONE, NO, OFF = one_of(None), one_of(None, False), one_of(None, 0, 0.0, False)

ARGUMENTS: dict[str, Argument] = {
    "max_epochs": Argument(one_of(None, -1), f"data never end, and there are no epochs: {STEPS}"),
    "min_epochs": Argument(OFF, f"data never end, and there are no epochs: {STEPS}"),
    "min_steps": Argument(OFF, f"a run takes trainer.max_steps steps, no fewer: {STEPS}"),
    "max_time": Argument(
        NONE, "a run ends with its last step: stop it with Ctrl-C or `timeout`, and go on with ckpt_path=last"
    ),
    "limit_train_batches": Argument(one_of(None, 1.0), f"it would repeat the same batches: {STEPS}"),
    "overfit_batches": Argument(OFF, "it would have no effect on endless data: give few images of your own"),
    "fast_dev_run": Argument(NO, "schedules follow trainer.max_steps: set that instead"),
    "limit_val_batches": Argument(
        one_of(None, 1.0), "numbers are of all samples of a validation: set data.samples, 2 or greater"
    ),
    "num_sanity_val_steps": Argument(OFF, "a part of a validation has no numbers: leave it at 0"),
    "check_val_every_n_epoch": Argument(NONE, "there are no epochs: set trainer.val_check_interval"),
    "reload_dataloaders_every_n_epochs": Argument(OFF, "there are no epochs: leave it out"),
    "limit_test_batches": Argument(one_of(None, 1.0), UNTESTED),
    "limit_predict_batches": Argument(one_of(None, 1.0), UNTESTED),
    "use_distributed_sampler": Argument(NO, "each process knows its share of a batch: leave it at false"),
    "enable_checkpointing": Argument(
        one_of(None, True), "runs go on from their checkpoints: keep fewer with callbacks.checkpoints"
    ),
    "barebones": Argument(NO, "it would leave out checkpoints and validations: leave it out"),
    "logger": Argument(NONE, "choose one with logger=NAME"),
    "callbacks": Argument(NONE, "add one with +callbacks.NAME._target_=CLASS"),
    "plugins": Argument(NONE, "checkpoints are written by a plugin of this project: leave it out"),
    "default_root_dir": Argument(NONE, "set run_dir"),
    "gradient_clip_val": Argument(
        lambda value: value is None or (type(value) in (int, float) and value > 0),
        "must be greater than 0, or null",
    ),
    "gradient_clip_algorithm": Argument(one_of(None, "norm", "value"), "must be norm or value"),
}


def check_trainer_arguments(trainer: DictConfig) -> None:
    """Refuse arguments of the trainer that would be ignored, or would change what is measured.

    Raises:
        UserError: names the first.
    """
    for name, argument in ARGUMENTS.items():
        value = OmegaConf.select(trainer, name)
        if not argument.allowed(value):
            raise UserError(f"trainer.{name}={override_value(value)}: {argument.remedy}")
    strategy = trainer.get("strategy")
    if isinstance(strategy, str) and not strategy.startswith(WHOLE):
        raise UserError(
            f"trainer.strategy={strategy}: every process has the whole network here: use trainer=ddp, or auto"
        )


def check_precision(section: str, processes: Mapping[str, Any]) -> None:
    """Refuse precisions whose weights are not float32.

    Args:
        section: `trainer` or `fabric`.
        processes: that section of the config.

    Raises:
        UserError: it is another.
    """
    given = processes.get("precision")
    if given is None or SHORT.get(str(given), str(given)) in PRECISIONS:
        return
    if "64" in str(given):
        remedy = "noise levels are computed in float64 anyway: use 32-true"
    else:
        remedy = "weights and their averages stay in float32: use bf16-mixed, 16-mixed or 32-true"
    raise UserError(f"{section}.precision={override_value(given)}: {remedy}")


def check_slurm(section: str, processes: Mapping[str, Any]) -> None:
    """Refuse a number of processes that differs from SLURM's, if SLURM has started this process.

    Raises:
        UserError: they differ, or SLURM's is no number.
    """
    given, devices = os.environ.get(TASKS), processes.get("devices")
    alone = "SLURM_NTASKS" not in os.environ or os.environ.get("SLURM_JOB_NAME") in INTERACTIVE
    if given is None or alone or not isinstance(devices, int):
        return
    if devices > 1 and str(devices) != given.strip():
        raise UserError(
            f"{section}.devices={devices}, but {TASKS}={given}: set {section}.devices={given}, ask for "
            f"--ntasks-per-node={devices}, or unset SLURM_NTASKS to start the processes from here"
        )


def override_value(value: Any) -> str:
    """A value as an override has it."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
