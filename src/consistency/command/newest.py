"""`ckpt_path=last` in an evaluation: the newest checkpoint of the training run in `run_dir`."""

from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from consistency.errors import UserError
from consistency.process.notices import notice
from consistency.process.rank import is_first
from consistency.quoting import path_argument, path_override

LAST = "last"


def named_last(arguments: Sequence[str]) -> list[str]:
    """The arguments of eval.py with `ckpt_path=RUN` in place of `ckpt_path=last run_dir=RUN`.

    An evaluation does not write to the directory of a training run; it gets its own.

    Args:
        arguments: of the command line; paths as `literal` writes them.
    """
    values = {key: value for key, _, value in (each.partition("=") for each in arguments)}
    run = text_value(f"run_dir={values['run_dir']}") if "run_dir" in values else None
    if values.get("ckpt_path") != LAST or run is None or not (Path(run) / "checkpoints").is_dir():
        return list(arguments)
    if is_first():
        notice(f"ckpt_path=last is the newest checkpoint of {run}; the evaluation has a directory of its own")
    others = [each for each in arguments if each.partition("=")[0] not in ("ckpt_path", "run_dir")]
    return [*others, path_override("ckpt_path", run)]


def text_value(override: str) -> str | None:
    """The value of an override, if it is text."""
    try:
        value = OverridesParser.create().parse_override(override).value()
    except HydraException:  # reported when the command is composed
        return None
    return value if isinstance(value, str) else None


def check_not_last(ckpt_path: str | None) -> None:
    """Refuse `ckpt_path=last` without a run.

    Raises:
        UserError: names the newest run below runs/, if there is one.
    """
    if ckpt_path != LAST or Path(LAST).exists():
        return
    found = sorted(Path("runs").glob("*/*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    example = f", such as {path_argument('ckpt_path', found[-1].parents[1])}" if found else ""
    raise UserError(f"ckpt_path=last is the newest of a run, and none is named: give ckpt_path=RUN{example}")
