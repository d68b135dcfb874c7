"""What data a run was trained on: enough to notice others under the same config."""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consistency.codec.identity import digest as codec_digest
from consistency.errors import UserError
from consistency.lit.data.module import DataModule

WHOLE = 2**30  # bytes of an array that are hashed at every start, in about a second
BLOCK = 2**20  # of a larger array so many bytes are hashed in each of BLOCKS places
BLOCKS = 64
CLOSE = 1e-4  # points are computed, and differ in their last bits from machine to machine

Identity = dict[str, Any]


def identity_of(data: DataModule) -> Identity:
    """Number, shape, classes and content, as plain data.

    Images and labels by a hash, which costs a second per GiB and never more than that; points by sums.
    """
    x, label = data.data.x, data.data.label
    found: Identity = {
        "count": len(x),
        "shape": list(data.stored_shape),
        "codec": codec_digest(data.codec),
        "classes": data.classes,
        "names": data.class_names() if data.classes else None,
        "labels": None if label is None else digest(label),
    }
    return found | ({"points": sums(x)} if x.is_floating_point() else {"content": digest(x)})


def check_identity(there: Identity, here: Identity, where: str) -> None:
    """Refuse to go on with other data.

    Args:
        there: of the checkpoint.
        here: of the data at hand.
        where: the checkpoint, for the message.

    Raises:
        UserError: names what differs.
    """
    for name, words in WORDS.items():
        if name in there and not same(there[name], here.get(name)):
            both = f" ({here.get(name)} here, {there[name]} there)" if name in PLAIN else ""
            raise UserError(
                f"data: {words} not that of {where}{both}: go on with the data that it was trained on, or "
                "begin a new run in another run_dir"
            )


PLAIN = ("count", "shape", "classes", "names")  # which a person can read
WORDS = {
    "count": "the number of samples is",
    "shape": "the shape is",
    "classes": "the number of classes is",
    "names": "the list of class names is",
    "labels": "the array of labels is",
    "codec": "the codec, which says what networks see, is",
    "content": "the array of images is",
    "points": "the array of points is",
}


def same(there: Any, here: Any) -> bool:
    """Equal, or for sums of points close."""
    if isinstance(there, list) and isinstance(here, list) and any(isinstance(v, float) for v in here):
        pairs = zip(there, here, strict=False)
        return len(there) == len(here) and all(
            isinstance(a, float) and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs
        )
    return there == here


def digest(x: Tensor) -> str:
    """A hash of an array, of evenly spaced blocks where it is large."""
    content = x.contiguous().numpy().reshape(-1).view(np.uint8)
    made = hashlib.sha256(str(len(content)).encode())
    if len(content) <= WHOLE:
        made.update(content.data)
        return made.hexdigest()
    for i in range(BLOCKS):
        start = (len(content) - BLOCK) * i // (BLOCKS - 1)
        made.update(content[start : start + BLOCK].tobytes())
    return made.hexdigest()


def sums(x: Tensor) -> list[float]:
    """Mean and mean square of each coordinate of points [M, D], and means that depend on the order."""
    points, order = x.double(), torch.linspace(-1, 1, len(x), dtype=torch.float64)
    return torch.cat([points.mean(0), points.square().mean(0), (order[:, None] * points).mean(0)]).tolist()
