"""Files of debug runs: which they are, and the refusal of what they must not be used for."""

from collections.abc import Mapping
from typing import Any


def debug_of(config: Mapping[str, Any]) -> str | None:
    """What cut the run of a config to a few steps, as `debug=smoke`; None for a run of full length.

    Args:
        config: of a checkpoint or of exported weights; an older one does not say which option it was.
    """
    debug = config.get("debug")
    run = debug.get("run") if isinstance(debug, Mapping) else None
    if run is None:
        return None
    name = run.get("name") if isinstance(run, Mapping) else None
    return f"debug={name}" if isinstance(name, str) and name.isidentifier() else "debug.run"
