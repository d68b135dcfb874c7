"""The result of a run: result.json for scripts, and the lines that are printed at its end."""

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
    """The hash of the checked-out commit, with + if files differ from it; None outside a repository.

    An installed package has none: a repository around its environment belongs to another project.
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
    """Name of a GPU; of the CPU with its number of threads, such as `cpu x 8`."""
    import torch  # not needed by those who only read results

    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu x {torch.get_num_threads()}"


def versions_and_commit() -> dict[str, Any]:
    """Versions of the libraries that compute, and the commit, for result.json."""
    return {"versions": {name: version(name) for name in VERSIONS}, "commit": commit()}


def write_result(directory: Path, result: Mapping[str, Any]) -> None:
    """Write result.json, whole or not at all; a number that is not finite becomes null."""
    write_text(
        directory / "result.json", json.dumps(finite_or_none(result), indent=2, ensure_ascii=False) + "\n"
    )


def read_result(path: Path) -> dict[str, Any]:
    """The content of a result.json. Its `metrics` are numbers or None by name; no other key is checked.

    Args:
        path: of the file.

    Raises:
        UserError: the file cannot be read, is no JSON object, or has metrics that are no numbers.
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
    """Whether a value of JSON is a number that fits into float64; a boolean is not."""
    if isinstance(value, bool):
        return False
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def finite_or_none(value: Any) -> Any:
    """A value, or a mapping at any depth, with None in place of NaN and infinities, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: finite_or_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def closing_lines(result: Mapping[str, Any], directory: Path, tables: str = "") -> str:
    """The text printed at the end of a run: metrics, paths of files, and the time spent.

    Args:
        result: content of result.json.
        directory: of result.json.
        tables: a table of the metrics, in place of the line of metrics; empty for that line.
    """
    paths = {**result["paths"], "result": str(directory / "result.json")}
    rest = {**result, "metrics": {}} if tables else result
    return "\n".join(part for part in (tables, path_lines({"paths": paths}), metrics_line(rest)) if part)


def metrics_line(result: Mapping[str, Any]) -> str:
    """Metrics, and the samples, steps and seconds that they took, in lines that fit a terminal."""
    metrics = [f"{name} {value:.4g}" for name, value in result["metrics"].items()]
    counts = [f"{result[what]:,} {what}" for what in ("steps", "images") if result.get(what)]
    spent = ", ".join([*judged_counts(result), *counts, f"{result['seconds']:.0f} s"])
    return "\n".join(wrap_parts([printable(part) for part in [*metrics, f"({spent})"]]))


def judged_counts(result: Mapping[str, Any]) -> list[str]:
    """The number of samples that the metrics were computed from, if it is the same for all of them."""
    protocols = [number["card"]["protocol"] for number in result.get("numbers", ())]
    counts = {protocol.get("count") for protocol in protocols if "sampler" in protocol}
    return [f"{count:,} samples judged" for count in counts if count is not None and len(counts) == 1]


def wrap_parts(parts: Sequence[str], columns: int = 100) -> list[str]:
    """Parts joined by two spaces into lines of at most `columns` characters; no part is broken."""
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + 2 + len(part) > columns:
            lines.append("")
        lines[-1] += f"  {part}" if lines[-1] else part
    return lines


def metrics_table(metrics: Mapping[str, float]) -> str:
    """A table with a row per sampler, the teacher's first, and a column per metric.

    Empty where no metric is a teacher's (`teacher/...`).
    """
    if not any(name.startswith("teacher/") for name in metrics):
        return ""
    cells: dict[str, dict[str, float]] = {}
    for name, value in metrics.items():
        metric, _, sampler = name.removeprefix("teacher/").rpartition("/")
        if metric == "gap":  # a metric of the function, not of a sampler
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
    rows = [[printable(cell) for cell in line] for line in lines]
    return "\n".join(f"{name:<18}" + "".join(f"{cell:>14}" for cell in rest) for name, *rest in rows) + "\n"


def path_lines(result: Mapping[str, Any]) -> str:
    """The paths of a result, one a line."""
    paths = {printable(name): printable(path) for name, path in result["paths"].items() if path}
    width = max([12, *map(len, paths)])
    return "\n".join(f"{name:<{width}} {path}" for name, path in paths.items())
