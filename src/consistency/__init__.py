"""Consistency models: every method of the family is one training step with other parts plugged in.

    import consistency as cm

    model = cm.load("data/weights/digits.safetensors")
    model.sample(16, steps=2, seed=0)  # uint8 [16, 1, 8, 8]

The names in `__all__` are the public library; each is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from consistency import edits
    from consistency.errors import UserError
    from consistency.files.experiments import experiments
    from consistency.library.model import Model
    from consistency.library.opening import load
    from consistency.metrics.picture import grid
    from consistency.model.condition import Condition
    from consistency.model.maps import Consistency, Denoiser, FlowMap

__all__ = [
    "Condition",
    "Consistency",
    "Denoiser",
    "FlowMap",
    "Model",
    "UserError",
    "edits",
    "experiments",
    "grid",
    "load",
]

_PLACES = {  # module and name of each
    "Condition": ("consistency.model.condition", "Condition"),
    "Consistency": ("consistency.model.maps", "Consistency"),
    "Denoiser": ("consistency.model.maps", "Denoiser"),
    "FlowMap": ("consistency.model.maps", "FlowMap"),
    "Model": ("consistency.library.model", "Model"),
    "UserError": ("consistency.errors", "UserError"),
    "experiments": ("consistency.files.experiments", "experiments"),
    "grid": ("consistency.metrics.picture", "grid"),
    "load": ("consistency.library.opening", "load"),
}


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used."""
    if name == "edits":
        return import_module("consistency.edits")  # which makes it an attribute
    if name not in _PLACES:
        raise AttributeError(f"module 'consistency' has no attribute '{name}'")
    module, attribute = _PLACES[name]
    globals()[name] = found = getattr(import_module(module), attribute)
    return found


def __dir__() -> list[str]:
    """Public names, and the modules that are imported already."""
    return sorted({*globals(), *__all__})
