"""What the machine can do, asked before anything is built."""

from pathlib import Path

import torch
from omegaconf import DictConfig

from consistency.errors import UserError

CPUINFO = Path("/proc/cpuinfo")


def check_counts(trainer: DictConfig) -> None:
    """Refuse a run without steps, devices or validations."""
    for name in (
        "max_steps",
        "accumulate_grad_batches",
        "val_check_interval",
        "log_every_n_steps",
        "devices",
    ):
        value = trainer.get(name)
        if isinstance(value, int) and value < 1 and (name, value) != ("devices", -1):
            also = ", or -1 for all GPUs" if name == "devices" else ""
            raise UserError(f"trainer.{name}={value} must be 1 or greater{also}")


def check_hardware(trainer: DictConfig) -> None:
    """Refuse a precision or an accelerator that the machine lacks."""
    gpu = torch.cuda.is_available()
    if trainer.accelerator == "gpu" and not gpu:
        raise UserError("trainer.accelerator=gpu but no GPU is visible: use trainer=cpu")
    if gpu and isinstance(trainer.devices, int) and trainer.devices > torch.cuda.device_count():
        raise UserError(f"trainer.devices={trainer.devices} but {torch.cuda.device_count()} GPUs are visible")
    on_cpu = trainer.accelerator == "cpu" or not gpu
    if on_cpu and "bf16" in str(trainer.precision) and not cpu_has_bf16():
        raise UserError(
            f"trainer.precision={trainer.precision} on a CPU without bf16 instructions, where it is several "
            "times slower than float32: use trainer.precision=32-true"
        )


def cpu_has_bf16() -> bool:
    """Whether this CPU multiplies bf16 in hardware."""
    if not CPUINFO.is_file():
        return False
    text = CPUINFO.read_text()
    return "avx512_bf16" in text or "amx_bf16" in text or " bf16" in text
