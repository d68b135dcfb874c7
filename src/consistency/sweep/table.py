"""A sweep leaves one table beside its runs."""

import json
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from consistency.files.atomic import write_text
from consistency.process.rank import is_first
from consistency.result import read_result
from consistency.table import Table as Markdown


class Table(Callback):
    """Writes `table.md` into the sweep's directory: overrides and metrics of every run that ended."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Gather the results of the runs."""
        directory = Path(config.hydra.sweep.dir)
        text = table(sorted(directory.glob("*/result.json"), key=lambda path: path.parent.name.zfill(6)))
        write_text(directory / "table.md", text)
        print(f"\n{text}\ntable        {directory / 'table.md'}")

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Leave the run's own overrides beside its result, if that was written just now."""
        directory = Path(config.hydra.runtime.output_dir)
        kept = directory / "overrides.json"
        ended = job_return.status == JobStatus.COMPLETED and directory.is_dir()
        if ended and is_first() and stale(kept):
            write_text(kept, json.dumps(list(config.hydra.overrides.task)))


def stale(overrides: Path) -> bool:
    """Whether a run has ended since its overrides were written; not where nothing was left to do."""
    result = overrides.with_name("result.json")
    there = overrides.is_file() and result.is_file()
    return not there or overrides.stat().st_mtime_ns < result.stat().st_mtime_ns


def table(results: list[Path]) -> str:
    """Markdown, a row per run, a column per metric that any of them has."""
    rows = [(path.parent, read_result(path)) for path in results]
    metrics = sorted({name for _, result in rows for name in result["metrics"]})
    lines = []
    for directory, result in rows:
        overrides = json.loads((directory / "overrides.json").read_text())
        values = [result["metrics"].get(name) for name in metrics]
        shown = ["" if value is None else f"{value:.4g}" for value in values]
        lines.append([directory.name, " ".join(overrides), *shown, f"{result['seconds']:.0f}"])
    return Markdown(["run", "overrides", *metrics, "seconds"], lines).markdown() + "\n"
