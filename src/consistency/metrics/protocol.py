"""How samples of a run are judged, as its cards say it."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Protocol

from consistency.codec.codec import Codec
from consistency.codec.identity import marks
from consistency.codec.pixels import ROUNDING
from consistency.files.upgrade import FORMER_MAP
from consistency.metrics.judge import Judge
from consistency.sampling.samplers import Sampler


class Served(Protocol):
    """What a data set is for cards: how many classes it has, and what networks see of it."""

    @property
    def classes(self) -> int:
        """How many, 0 for none."""
        ...

    @property
    def codec(self) -> Codec:
        """What networks see."""
        ...


def protocol(
    sampler: Sampler, judge: Judge, data: Served, count: int, seed: int, precision: str, weights: str
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
    return {**describe_sampler(sampler), **made, "rounding": rounding, **about, **judge.protocol(count)}


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """Sampler, network calls, σ list, and the options that make a difference."""
    options = {key: to_json(value) for key, value in sampler.described_options.items()}
    return {"sampler": sampler.name, "nfe": sampler.nfe, "sigmas": list(sampler.sigmas), **options}


def to_json(value: Any) -> Any:
    """What JSON can hold; anything else as it describes itself."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def model(
    experiment: str | None,
    role: str,
    step: int | None,
    weights_sha256: str,
    meaning: Mapping[str, Any],
    codec: Codec,
) -> dict[str, Any]:
    """What is judged: the weights, and what they mean, in units of the data.

    Args:
        experiment: that was trained.
        role: of the map.
        step: optimiser steps.
        weights_sha256: of the weights.
        meaning: section `model` of the run's config, plain data.
        codec: what networks see.
    """
    about = [{**meaning, "_target_": FORMER_MAP}, *marks(codec).values()]  # the role stands by itself
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return {
        "experiment": experiment,
        "role": role,
        "step": step,
        "weights_sha256": weights_sha256,
        "denoiser_sha256": digest,
    }
