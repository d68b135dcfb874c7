"""Whether two codecs are the same: for cards, caches and checkpoints."""

import hashlib
import json
from typing import Any

from consistency.codec.codec import Codec
from consistency.codec.pixels import Pixels
from consistency.codec.points import Points


def codec_digest(codec: Codec) -> str:
    """SHA-256 of all that z depends on."""
    return hashlib.sha256(json.dumps(codec.describe(), sort_keys=True).encode()).hexdigest()


def marks(codec: Codec) -> dict[str, Any]:
    """What cards and caches keep of a codec, by name.

    For pixels and points they are the two numbers that were kept before there were codecs, so that published
    digests hold: a data set of points has always had those of pixels.
    """
    if type(codec) is Pixels:  # and nothing that derives from it
        return {"offset": codec.offset, "scale": codec.scale}
    return {"offset": 127.5, "scale": 127.5} if type(codec) is Points else {"codec": codec_digest(codec)}
