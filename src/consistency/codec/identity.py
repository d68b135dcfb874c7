"""Identity of codecs, for cards, caches and checkpoints."""

import hashlib
import json
from typing import Any

from consistency.codec.codec import Codec
from consistency.codec.pixels import Pixels
from consistency.codec.points import Points


def codec_digest(codec: Codec) -> str:
    """SHA-256 of a codec's description."""
    return hashlib.sha256(json.dumps(codec.describe(), sort_keys=True).encode()).hexdigest()


def marks(codec: Codec) -> dict[str, Any]:
    """The entries of cards and caches for a codec, by key.

    For pixels and points these are the two numbers from before there were codecs, so that published digests
    stay valid; data sets of points have always had those of pixels.
    """
    if type(codec) is Pixels:  # not a subclass
        return {"offset": codec.offset, "scale": codec.scale}
    return {"offset": 127.5, "scale": 127.5} if type(codec) is Points else {"codec": codec_digest(codec)}
