"""What the page knows of a model: coefficients by level, pixels, and what it is in words."""

from collections.abc import Sequence
from typing import Any

from consistency.codec.pixels import pixels_of
from consistency.export.model import Outgoing
from consistency.export.programs import coefficients
from consistency.model.maps import FlowMap
from consistency.sampling.editing import EditPlan
from consistency.sampling.levels import fresh, karras_sigmas, visits
from consistency.sampling.samplers import Jumps, MultiStep

CALLS = (1, 2, 4)  # that the page offers of a consistency function
JUMPS = (1, 2, 4, 8)  # and of a flow map
LEVELS = 40  # of an edit, ε included
PIXELS = "export=web draws", "choose another format, such as export=onnx, which decodes"
Row = dict[str, float]  # coefficients of a level, how much noise is added before its call, see `jump_rows`


def describe_model(model: Outgoing, size: int) -> dict[str, Any]:
    """Plain data; `size` is that of the network's file, in bytes."""
    edit, codec = edit_levels(model), pixels_of(model.codec, *PIXELS)
    return {
        "shape": list(model.shape),
        "classes": model.classes,
        "offset": codec.offset,
        "scale": codec.scale,
        "range": [edit.low, edit.high],
        "steps": {str(calls): level_rows(model, each.sigmas) for calls, each in offered(model).items()},
        "jumps": {"data": model.f.sigma_data} if isinstance(model.f, FlowMap) else None,
        "levels": level_rows(model, edit.sigmas, blank=False),
        "about": describe_lines(model, size),
    }


def offered(model: Outgoing) -> dict[int, MultiStep | Jumps]:
    """The samplers of the page by network calls, at the model's own σ, or else Karras's.

    Of a flow map they are jumps; how much fresh noise is mixed in (γ) is chosen on the page.
    """
    sigma, known = noise_settings(model), model.lists
    if isinstance(model.f, FlowMap):
        every = {**model.found, **model.samplers}.values()
        known = {each.title: each.sigmas for each in every if isinstance(each, Jumps) and not each.gamma}
        made = [Jumps(known.get(f"{n}jump") or karras_sigmas(n + 1, **sigma)[:-1]) for n in JUMPS]
    else:
        made = [
            MultiStep(known.get(f"{n}step") or karras_sigmas(n + 1, **sigma)[:-1], model.sigma_min)
            for n in CALLS
        ]
    return {each.nfe: each for each in made}


def noise_settings(model: Outgoing) -> dict[str, float]:
    """ε, the highest σ and ρ of the model's run."""
    return {"sigma_min": model.sigma.min, "sigma_max": model.sigma.max, "rho": model.sigma.rho}


def edit_levels(model: Outgoing) -> EditPlan:
    """The levels of an edit: Karras's but for the last, ε, where f is the identity."""
    sigma = noise_settings(model)
    low, high = model.codec.range
    levels = karras_sigmas(LEVELS, **sigma)[:-1]
    return EditPlan(levels, model.sigma_min, sigma["sigma_max"], low=low, high=high)


def level_rows(model: Outgoing, sigmas: Sequence[float], blank: bool = True) -> list[Row]:
    """A row for each level.

    Args:
        model: whose.
        sigmas: falling; those below ε are raised to it.
        blank: the first level's noise lies over nothing, rather than over an image that has noise ε already.
    """
    e = model.sigma_min
    levels = visits(sigmas, e) if blank else [fresh(sigma, e) for sigma in sigmas]
    rows = coefficients(model.f.precond, [tau for tau, _ in levels])
    return [{**row, "added": added} for row, (_, added) in zip(rows, levels, strict=True)]


def describe_lines(model: Outgoing, size: int) -> list[str]:
    """What the model is: first its name."""
    about = model.about
    parameters = sum(p.numel() for p in model.f.net.parameters())
    name = about["experiment"] or "consistency model"
    steps = "" if about["step"] is None else f"{about['step']:,} training steps"
    weights = " ".join([about["weights"], "weights", about["weights_sha256"][:8]])
    parts = [name, steps, f"{parameters:,} parameters", f"{size / 1e6:.1f} MB", weights.strip()]
    return [part for part in parts if part]
