"""The identity of the data that a run is trained on, by which a resumed run notices other data."""

import hashlib
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from consistency.codec.identity import codec_digest
from consistency.errors import UserError
from consistency.lit.data.module import DataModule

WHOLE = 2**30  # bytes up to which a whole array is hashed, in about a second
BLOCK = 2**20  # bytes hashed in each of BLOCKS places of a larger array
BLOCKS = 64
CLOSE = 1e-4  # tolerance for sums of points, whose last bits differ from machine to machine

Identity = dict[str, Any]


def identity_of(data: DataModule) -> Identity:
    """Count, shape, codec, classes, and a digest of the content, as plain data.

    The digest of images and labels is a hash, which takes at most about a second; that of points are sums.
    """
    x, label = data.data.x, data.data.label
    found: Identity = {
        "count": len(x),
        "shape": list(data.stored_shape),
        "codec": codec_digest(data.codec),
        "classes": data.classes,
        "names": data.class_names() if data.classes else None,
        "labels": None if label is None else array_digest(label),
    }
    return found | ({"points": point_sums(x)} if x.is_floating_point() else {"content": array_digest(x)})


def check_identity(there: Identity, here: Identity, where: str) -> None:
    """Refuse to resume with other data.

    Args:
        there: identity in the checkpoint.
        here: identity of the data of this run.
        where: the checkpoint, as the message calls it.

    Raises:
        UserError: names the first difference.
    """
    for name, phrase in PHRASES.items():
        if name in there and not same_or_close(there[name], here.get(name)):
            both = f" ({here.get(name)} here, {there[name]} there)" if name in READABLE else ""
            raise UserError(
                f"data: {phrase} not that of {where}{both}: go on with the data that it was trained on, or "
                "begin a new run in another run_dir"
            )


READABLE = ("count", "shape", "classes", "names")  # values that the message shows
PHRASES = {
    "count": "the number of samples is",
    "shape": "the shape is",
    "classes": "the number of classes is",
    "names": "the list of class names is",
    "labels": "the array of labels is",
    "codec": "the codec, which says what networks see, is",
    "content": "the array of images is",
    "points": "the array of points is",
}


def same_or_close(there: Any, here: Any) -> bool:
    """Whether two values are equal; lists of floats, the sums of points, to `CLOSE`."""
    if isinstance(there, list) and isinstance(here, list) and any(isinstance(v, float) for v in here):
        pairs = zip(there, here, strict=False)
        return len(there) == len(here) and all(
            isinstance(a, float) and math.isclose(a, b, rel_tol=CLOSE, abs_tol=CLOSE) for a, b in pairs
        )
    return there == here


def array_digest(x: Tensor) -> str:
    """SHA-256 of the bytes of an array; of evenly spaced blocks of them where it is large."""
    content = x.contiguous().numpy().reshape(-1).view(np.uint8)
    made = hashlib.sha256(str(len(content)).encode())
    if len(content) <= WHOLE:
        made.update(content.data)
        return made.hexdigest()
    for i in range(BLOCKS):
        start = (len(content) - BLOCK) * i // (BLOCKS - 1)
        made.update(content[start : start + BLOCK].tobytes())
    return made.hexdigest()


def point_sums(x: Tensor) -> list[float]:
    """Mean, mean square, and mean weighted by the row's position, of each coordinate of points [M, D]."""
    points, order = x.double(), torch.linspace(-1, 1, len(x), dtype=torch.float64)
    return torch.cat([points.mean(0), points.square().mean(0), (order[:, None] * points).mean(0)]).tolist()
