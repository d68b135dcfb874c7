"""Entry points run in forks of a process that has imported everything: five seconds less each time.

What depends on how a process begins, on its environment or signals, or starts others, is run for real.
"""

import multiprocessing
import os
import runpy
import sys
import warnings
from pathlib import Path

from tests.waits import joined

PRELOADED = ["consistency.run", "consistency.evaluate", "torchvision", "sklearn.datasets"]


def execute(script, arguments, directory, streams):
    """Run a script as `python SCRIPT ARGUMENTS` in a directory.

    Returns:
        Its exit status, and what it wrote to both streams.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    out, err = (Path(streams) / name for name in ("out", "err"))
    process = context.Process(
        target=enter, args=(str(script), list(arguments), str(directory), str(out), str(err))
    )
    process.start()
    status = joined(process, f"{script} {arguments}")
    return status, out.read_text(), err.read_text()


def enter(script, arguments, directory, out, err):
    """In the fork: become the script."""
    for path, stream in ((out, 1), (err, 2)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    warnings.resetwarnings()
    warnings.simplefilter("default")
    os.chdir(directory)
    sys.path.insert(0, directory)
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
