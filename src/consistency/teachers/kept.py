"""Checks of the names and the config of a checkpoint, before anything uses them."""

from collections.abc import Mapping, Sequence
from typing import Any

from consistency.files.config import checked_config
from consistency.files.paths import check_names


def checked_content(kept: Mapping[str, Any], source: str, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint or an exported file, its config as a `FileConfig`.

    Args:
        kept: as `read_sealed` or `read_exported` has verified it.
        source: the option and the file, for messages: `ckpt_path=FILE`.
        trust: packages that the user trusts beyond this project.

    Raises:
        UserError: a name could lead out of a directory, or the config is refused.
    """
    averages, sigmas = kept["callbacks"].get("EMA", {}).get("averages", {}), kept.get("sigmas", {})
    experiment = kept.get("experiment")
    check_names(f"{source}: averages", averages)
    check_names(f"{source}: samplers", sigmas)
    if experiment is not None:  # a name of configs/experiment, which may have folders
        check_names(f"{source}: experiment", experiment.split("/"))
    config = checked_config(kept["config"], source, trust)
    for place in (("samplers",), ("module", "samplers")):
        check_names(f"{source}: samplers", config.names(*place))
    return {**kept, "config": config}
