"""The entries of a card: the protocol of a judgement, and the model."""

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
    """The properties of a data set that cards record."""

    @property
    def classes(self) -> int:
        """Number of classes, 0 for none."""
        ...

    @property
    def codec(self) -> Codec:
        """Data u <-> z, the inputs of networks."""
        ...


def protocol(
    sampler: Sampler, judge: Judge, data: Served, count: int, seed: int, precision: str, weights: str
) -> dict[str, Any]:
    """Everything beside the model that changes the numbers of a judge.

    Args:
        sampler: makes the samples.
        judge: has seen the data.
        data: the data that samples are compared with.
        count: number of samples.
        seed: of their noise; the label of a sample follows from its number.
        precision: numeric precision of the network.
        weights: name of the average, or "raw".
    """
    labels = f"i mod {data.classes}" if data.classes else "none"
    data_set = {"data": type(data).__name__, "split": "training", "flips": False, "labels": labels}
    samples = {"count": count, "seed": seed, "weights": weights, "precision": precision}
    rounding = ROUNDING if data.codec.visible else "none: points"
    return {**describe_sampler(sampler), **samples, "rounding": rounding, **data_set, **judge.protocol(count)}


def describe_sampler(sampler: Sampler) -> dict[str, Any]:
    """Name of a sampler, number of network calls (nfe), σ list and options, as plain data."""
    options = {key: to_json(value) for key, value in sampler.described_options.items()}
    return {"sampler": sampler.name, "nfe": sampler.nfe, "sigmas": list(sampler.sigmas), **options}


def to_json(value: Any) -> Any:
    """The value if JSON can hold it, else its `repr`."""
    return value if value is None or isinstance(value, str | int | float) else repr(value)


def model(
    experiment: str | None,
    role: str,
    step: int | None,
    weights_sha256: str,
    meaning: Mapping[str, Any],
    codec: Codec,
) -> dict[str, Any]:
    """The model of a card: its weights, and a hash of the function that they define in units of the data.

    Args:
        experiment: name of the experiment; None if not known.
        role: of the map.
        step: number of optimiser steps.
        weights_sha256: of the weights.
        meaning: section `model` of the run's config, plain data.
        codec: data u <-> z, the inputs of networks.
    """
    about = [{**meaning, "_target_": FORMER_MAP}, *marks(codec).values()]  # the role is an entry of its own
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return {
        "experiment": experiment,
        "role": role,
        "step": step,
        "weights_sha256": weights_sha256,
        "denoiser_sha256": digest,
    }
