"""The options of train.py and eval.py at the top level of the config: their types and bounds.

Nothing here imports torch, so that a mistake in one of them is answered at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from consistency.errors import UserError, check_seed
from consistency.files.configs import CHECKOUT

THREADS = 1024  # more than any machine has cores; a million crash OpenMP


@dataclass(frozen=True)
class Train:
    """Options of configs/train.yaml.

    Args:
        seed: from 0 to 2^63 - 1.
        run_dir: where the run works; neither empty nor the checkout itself.
        ckpt_path: a checkpoint to go on from, or `last`.
        data_dir: where data sets land.
        threads: on the CPU, from 1 to 1024; None for torch's choice.
        compile: compile the network.
        optimized_metric: name of a metric.
    """

    seed: int = 0
    run_dir: str = "runs"
    ckpt_path: str | None = None
    data_dir: str = "data"
    threads: int | None = None
    compile: bool = False
    optimized_metric: str | None = None

    def __post_init__(self) -> None:
        check_seed("seed", self.seed)
        check_threads(self.threads)
        check_places(run_dir=self.run_dir, data_dir=self.data_dir, ckpt_path=self.ckpt_path)


@dataclass(frozen=True)
class Eval:
    """Options of configs/eval.yaml.

    Args:
        ckpt_path: a checkpoint.
        input: images, files and folders.
        mask: an image file.
        weights: an average by name.
        found: use σ lists that a search has found.
        override: changes to the checkpoint's config.
        threads: on the CPU, from 1 to 1024; None for as many as the run took.
        data_dir: where data sets land.
        cache: folder of numbers that are known already; None to keep none.
        run_dir: where the evaluation works; neither empty nor the checkout itself.
    """

    ckpt_path: str | None = None
    input: str | Sequence[str] | None = None
    mask: str | None = None
    weights: str | None = None
    found: bool = False
    override: dict[str, Any] = field(default_factory=dict)
    threads: int | None = None
    data_dir: str = "data"
    cache: str | None = None
    run_dir: str = "runs"

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check_places(run_dir=self.run_dir, data_dir=self.data_dir, ckpt_path=self.ckpt_path)
        check_places(cache=self.cache, mask=self.mask)


def check_threads(threads: int | None) -> None:
    """Refuse a number of threads below 1 or above `THREADS`."""
    if threads is not None and not 1 <= threads <= THREADS:
        raise UserError(f"threads={threads} must be 1 or greater, and at most {THREADS}; or null")


def check_places(**paths: str | None) -> None:
    """Refuse an empty path, which means the working directory, and a run in the checkout itself."""
    for key, path in paths.items():
        if path is not None and not path.strip():
            raise UserError(f"{key}= is empty: give a path with {key}=PATH")
        if key == "run_dir" and path is not None and Path(path).resolve() == CHECKOUT:
            raise UserError(f"run_dir={path} is the checkout itself: give a directory of its own")
