"""Checks of the hardware before anything is built: accelerators, precisions, numbers of processes."""

import os
import sys
from pathlib import Path

import torch
from omegaconf import DictConfig

from consistency.errors import UserError
from consistency.process.rank import is_first
from consistency.schema.arguments import check_precision, check_slurm, check_trainer_arguments

CPUINFO = Path("/proc/cpuinfo")


def check_counts(trainer: DictConfig) -> None:
    """Refuse a run without steps or validations, or that would stop early; runs the checks of `arguments`."""
    for name in ("max_steps", "accumulate_grad_batches", "val_check_interval", "log_every_n_steps"):
        value = trainer.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            said = "null" if value is None else value
            raise UserError(f"trainer.{name}={said} must be a whole number of steps, 1 or greater")
    for name in ("max_epochs", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise UserError(f"trainer.{name}=0 would train nothing: leave it out, and set trainer.max_steps")
    check_trainer_arguments(trainer)


def check_hardware(trainer: DictConfig) -> None:
    """Refuse a precision or an accelerator that the machine lacks; choose the CPU in place of Apple's GPU.

    Args:
        trainer: the section of the config, of a trainer or of a fabric; `accelerator=auto` may become `cpu`.
    """
    gpu, section = torch.cuda.is_available(), "trainer" if "max_steps" in trainer else "fabric"
    check_precision(section, trainer)
    check_slurm(section, trainer)
    check_apple(trainer, gpu)
    check_processes(trainer, gpu)
    if trainer.accelerator == "gpu" and not gpu:
        raise UserError("trainer.accelerator=gpu but no GPU is visible: use trainer=cpu")
    on_cpu = trainer.accelerator == "cpu" or not gpu
    if not on_cpu and isinstance(trainer.devices, int) and trainer.devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={trainer.devices} but {torch.cuda.device_count()} GPUs are visible")
    if on_cpu and "bf16" in str(trainer.precision) and not cpu_has_bf16():
        raise UserError(
            f"trainer.precision={trainer.precision} on a CPU without bf16 instructions, where it is several "
            "times slower than float32: use trainer.precision=32-true"
        )


def check_apple(trainer: DictConfig, gpu: bool) -> None:
    """Do not use Apple's GPU, which has no float64: noise levels are computed in float64."""
    if trainer.accelerator == "mps":
        raise UserError(
            "trainer.accelerator=mps: noise levels are computed in float64, which Apple's GPU does not have: "
            "use trainer.accelerator=cpu"
        )
    if trainer.accelerator == "auto" and not gpu and torch.backends.mps.is_available():
        trainer.accelerator = "cpu"
        if is_first():
            print(
                "on the CPU: Apple's GPU has no float64, in which noise levels are computed", file=sys.stderr
            )


def check_processes(trainer: DictConfig, gpu: bool) -> None:
    """Refuse a number of processes below 1 (-1 means all GPUs), or on a CPU above its cores and above 16."""
    section, devices = "trainer" if "max_steps" in trainer else "fabric", trainer.devices
    if isinstance(devices, int) and devices < 1 and devices != -1:
        raise UserError(f"{section}.devices={devices} must be 1 or greater, or -1 for all GPUs")
    most = max(16, os.cpu_count() or 1)
    if isinstance(devices, int) and devices > most and (trainer.accelerator == "cpu" or not gpu):
        raise UserError(f"{section}.devices={devices} processes on a CPU: at most {most}")


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    if not CPUINFO.is_file():
        return False
    text = CPUINFO.read_text("utf-8", "replace")
    return "avx512_bf16" in text or "amx_bf16" in text or " bf16" in text
