"""What a run leaves behind for scripts (result.json) and for people (a few lines)."""

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from consistency.errors import UserError, printable
from consistency.files.atomic import write_text
from consistency.files.configs import CHECKOUT

if TYPE_CHECKING:
    import torch

VERSIONS = ("torch", "lightning", "torchmetrics", "hydra-core")


def commit() -> str | None:
    """The checked-out commit, with + when files differ from it; None outside a repository.

    An installed package has none: a repository around its environment is somebody else's.
    """
    if CHECKOUT is None:
        return None
    try:
        text = {"encoding": "utf-8", "errors": "replace"}
        where = {"cwd": CHECKOUT, "capture_output": True, "check": True, **text}
        head = subprocess.run(["git", "rev-parse", "HEAD"], **where).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain"], **where).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+" if changed else "")


def device_name(device: "torch.device") -> str:
    """The device in words."""
    import torch  # not by whoever reads results only

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x {torch.get_num_threads()}"


def versions_and_commit() -> dict[str, Any]:
    """Versions of what computed, and the commit."""
    return {"versions": {name: version(name) for name in VERSIONS}, "commit": commit()}


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Write result.json, whole or not at all; a number that is not finite becomes null."""
    write_text(
        directory / "result.json", json.dumps(finite_or_none(result), indent=2, ensure_ascii=False) + "\n"
    )


def read_result(path: Path) -> dict[str, Any]:
    """A result.json, with `metrics` by name; its other keys are whatever they are.

    Args:
        path: the file.

    Raises:
        UserError: it cannot be read, is no JSON object, or has metrics that are no numbers.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
        metrics = found["metrics"]
        bad = [name for name, value in metrics.items() if value is not None and not is_number(value)]
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give the directory of a run") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path} is damaged, or no result of this project: delete it and run again"
        ) from error
    if bad:
        raise UserError(f"{path} is damaged: metrics.{bad[0]:.80} is no number; delete it and run again")
    return found


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a number that fits into float64; true and false are none."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def finite_or_none(value: Any) -> Any:
    """The same, with NaN and infinities replaced by None: JSON has no such numbers."""
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def closing_lines(result: Mapping[str, Any], directory: Path, tables: str = "") -> str:
    """What is printed at the end: numbers, where files are, and what was spent.

    Args:
        result: as in result.json, which has everything.
        directory: of result.json.
        tables: that show the metrics; empty to print those in lines.
    """
    paths = {**result["paths"], "result": str(directory / "result.json")}
    shown = {**result, "metrics": {}} if tables else result
    return "\n".join(part for part in (tables, path_lines({"paths": paths}), metrics_line(shown)) if part)


def metrics_line(result: Mapping[str, Any]) -> str:
    """Metrics, and what they have cost, in lines that fit a terminal."""
    metrics = [f"{name} {value:.4g}" for name, value in result["metrics"].items()]
    counts = [f"{result[what]:,} {what}" for what in ("steps", "images") if result.get(what)]
    spent = ", ".join([*judged_counts(result), *counts, f"{result['seconds']:.0f} s"])
    return "\n".join(wrap_parts([printable(part) for part in [*metrics, f"({spent})"]]))


def judged_counts(result: Mapping[str, Any]) -> list[str]:
    """How many samples of each sampler the metrics are of, if all are of as many."""
    protocols = [number["card"]["protocol"] for number in result.get("numbers", ())]
    counts = {how.get("count") for how in protocols if "sampler" in how}
    return [f"{count:,} samples judged" for count in counts if count is not None and len(counts) == 1]


def wrap_parts(parts: Sequence[str], columns: int = 100) -> list[str]:
    """Lines of parts, each whole, two spaces between them."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + 2 + len(part) > columns:
            lines.append("")
        lines[-1] += f"  {part}" if lines[-1] else part
    return lines


def metrics_table(metrics: Mapping[str, float]) -> str:
    """A row per sampler, the teacher's first, and a column per metric; empty without a teacher's."""
    if not any(name.startswith("teacher/") for name in metrics):
        return ""
    cells: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, _, sampler = name.removeprefix("teacher/").rpartition("/")
        if metric == "gap":  # of the function, not of a sampler
            continue
        row = f"teacher {sampler}" if name.startswith("teacher/") else sampler
        cells.setdefault(row if metric else "", {})[metric or name] = value
    cells.pop("", None)
    columns = list(dict.fromkeys(metric for row in cells.values() for metric in row))
    teachers_first = sorted(cells, key=lambda row: not row.startswith("teacher"))
    lines = [
        ["", *columns],
        *([row, *(f"{cells[row].get(c, math.nan):.4g}" for c in columns)] for row in teachers_first),
    ]
    shown = [[printable(cell) for cell in line] for line in lines]
    return "\n".join(f"{name:<18}" + "".join(f"{cell:>14}" for cell in rest) for name, *rest in shown) + "\n"


def path_lines(result: Mapping[str, Any]) -> str:
    """The paths a person opens next, a line each."""
    paths = {printable(name): printable(path) for name, path in result["paths"].items() if path}
    width = max([12, *map(len, paths)])
    return "\n".join(f"{name:<{width}} {path}" for name, path in paths.items())
