"""Recognises the checkpoints of debug runs."""

from collections.abc import Mapping
from typing import Any


def debug_of(config: Mapping[str, Any]) -> str | None:
    """The option that shortened the run of a config, such as `debug=smoke`; None for a run of full length.

    Args:
        config: of a checkpoint or of exported weights; an older one does not say which option it was.
    """
    debug = config.get("debug")
    run = debug.get("run") if isinstance(debug, Mapping) else None
    if run is None:
        return None
    name = run.get("name") if isinstance(run, Mapping) else None
    return f"debug={name}" if isinstance(name, str) and name.isidentifier() else "debug.run"
