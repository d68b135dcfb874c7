"""Every method beside every other, held against the exact function: a table and a chart of a sweep.

`python -m consistency.sweep.oracle DIRECTORY` makes both again from what the runs have left there.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from consistency.errors import UserError
from consistency.files.atomic import replacing, write_text
from consistency.sweep.chart import chart
from consistency.sweep.markdown import markdown
from consistency.sweep.rows import rows
from consistency.sweep.runs import is_planned, keep_fault, keep_plan, planned, runs_of


class OracleTable(Callback):
    """Writes `oracle.md` and `oracle.png` into the sweep's directory, anew whenever a run has ended.

    Not at the end of the sweep alone, of which Hydra says nothing where a run has failed.
    """

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        """Write down what is going to be run, so that nothing can go missing."""
        keep_plan(Path(config.hydra.sweep.dir), planned(config))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        """Take the run in: one of the sweep, or one that is made up for in the sweep's directory."""
        directory = Path(config.hydra.runtime.output_dir)
        if job_return.status == JobStatus.FAILED:
            fault = keep_fault(directory, job_return._return_value)  # the property would raise it
            print(f"failed: {' '.join(config.hydra.overrides.task)}: {fault}", file=sys.stderr, flush=True)
        if is_planned(directory.parent):
            write(directory.parent)

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        """Show the table."""
        show(Path(config.hydra.sweep.dir))


def write(directory: Path) -> None:
    """Table and chart of all runs there, whole or not at all: runs side by side may write at once."""
    found = rows(runs_of(directory))
    write_text(directory / "oracle.md", markdown(found), shared=True)
    with replacing(directory / "oracle.png", shared=True) as temporary:
        chart(found).savefig(temporary, dpi=150)


def show(directory: Path) -> None:
    """Write both, print the table, and say where they are."""
    write(directory)
    print(f"\n{(directory / 'oracle.md').read_text()}")
    print(f"table        {directory / 'oracle.md'}\nchart        {directory / 'oracle.png'}")


def main(arguments: list[str]) -> int:
    """Show the table of the sweep in a directory; the exit status."""
    try:
        if len(arguments) != 1:
            raise UserError("give one directory: python -m consistency.sweep.oracle DIRECTORY")
        show(Path(arguments[0]))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
