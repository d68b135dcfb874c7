"""How samples of a run are judged, as its cards say it."""

import hashlib
import json
from typing import Any

from omegaconf import DictConfig, OmegaConf

from consistency.codec.identity import marks
from consistency.codec.pixels import ROUNDING
from consistency.lit.data.module import DataModule
from consistency.metrics.judge import Judge
from consistency.sampling.samplers import Sampler


def protocol(
    sampler: Sampler, judge: Judge, data: DataModule, count: int, seed: int, precision: str, weights: str
) -> dict[str, Any]:
    """All that moves a number of the same model.

    Args:
        sampler: makes the samples.
        judge: has seen the data.
        data: what they are compared with.
        count: samples.
        seed: of their noise; labels follow from their numbers.
        precision: in which the network computes.
        weights: an average by name, or raw.
    """
    labels = f"i mod {data.classes}" if data.classes else "none"
    about = {"data": type(data).__name__, "split": "training", "flips": False, "labels": labels}
    made = {"count": count, "seed": seed, "weights": weights, "precision": precision}
    rounding = ROUNDING if data.codec.visible else "none: points"
    return {**described(sampler), **made, "rounding": rounding, **about, **judge.protocol(count)}


def described(sampler: Sampler) -> dict[str, Any]:
    """Sampler, network calls, σ list, and the options that make a difference."""
    options = {key: plain(value) for key, value in sampler.told.items()}
    return {"sampler": sampler.name, "nfe": sampler.nfe, "sigmas": list(sampler.sigmas), **options}


def plain(value: Any) -> Any:
    """What JSON can hold; anything else as it describes itself."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def model(
    experiment: str | None, role: str, step: int, weights_sha256: str, meaning: DictConfig, data: DataModule
) -> dict[str, Any]:
    """What is judged: the weights, and what they mean, in units of the data."""
    about = [OmegaConf.to_container(meaning, resolve=True), *marks(data.codec).values()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return {
        "experiment": experiment,
        "role": role,
        "step": step,
        "weights_sha256": weights_sha256,
        "denoiser_sha256": digest,
    }
