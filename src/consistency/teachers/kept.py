"""What a checkpoint says beside its weights, held to what ours say before anything uses it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from consistency.errors import UserError
from consistency.fileconfig import checked
from consistency.paths import check_names

RAW = "raw"  # name of the weights that are no average


def checked_content(kept: Mapping[str, Any], source: str, trust: Sequence[str] = ()) -> dict[str, Any]:
    """The content of a checkpoint or an exported file, its config as a `FileConfig`.

    Args:
        kept: state_dict, config and callbacks, global_step, experiment and sigmas where there are any.
        source: the option and the file, for messages: `ckpt_path=FILE`.
        trust: packages that the user trusts beyond this project.

    Raises:
        UserError: a part is of another kind, a name could lead out of a directory, or the config is refused.
    """
    check_kinds(kept, source)
    averages, sigmas = kept["callbacks"].get("EMA", {}).get("averages", {}), kept.get("sigmas", {})
    experiment = kept.get("experiment")
    check_names(f"{source}: averages", averages)
    check_names(f"{source}: samplers", sigmas)
    if experiment is not None:  # a name of configs/experiment, which may have folders
        check_names(f"{source}: experiment", experiment.split("/"))
    config = checked(kept["config"], source, trust)
    for place in (("samplers",), ("module", "samplers")):
        check_names(f"{source}: samplers", config.names(*place))
    return {**kept, "config": config}


def check_kinds(kept: Mapping[str, Any], source: str) -> None:
    """Refuse parts of another kind than a run writes."""
    step, callbacks = kept.get("global_step", 0), kept["callbacks"]
    none = {"averages": {}, "evaluate": RAW}
    ema = callbacks.get("EMA", none) if isinstance(callbacks, dict) else None
    averages = ema.get("averages") if isinstance(ema, dict) else None
    kinds = {
        "state_dict": is_state(kept["state_dict"]),
        "config": isinstance(kept["config"], dict),
        "callbacks": ema is not None,
        "averages": isinstance(averages, dict) and all(map(is_state, averages.values())),
        "evaluate": isinstance(ema, dict) and isinstance(ema.get("evaluate"), str),
        "experiment": isinstance(kept.get("experiment"), str | None),
        "global_step": type(step) is int and 0 <= step < 2**63,
        "sigmas": isinstance(kept.get("sigmas", {}), dict),
    }
    for name, right in kinds.items():
        if not right:
            raise UserError(
                f"{source} was changed or is of another program: its {name} are not what a run of this "
                "project writes; use the checkpoint as it was written"
            )


def is_state(node: object) -> bool:
    """Whether something is tensors by name."""
    return isinstance(node, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) and is_stored(tensor)
        for name, tensor in node.items()
    )


def is_stored(tensor: Tensor) -> bool:
    """Whether all numbers of a tensor are in the file: a view may repeat one of them 10^12 times."""
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    return plain and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
