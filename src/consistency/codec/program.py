"""A check that a codec's program for exports agrees with the codec."""

from collections.abc import Sequence

import torch

from consistency.codec.codec import Codec
from consistency.codec.pixels import Pixels, codec_name
from consistency.errors import UserError

SAMPLES = 8  # number of random z to compare
CLOSE = 1e-4  # allowed difference of points; images may differ by one level


@torch.no_grad()
def check_program(codec: Codec, shape: Sequence[int]) -> None:
    """Check that a codec's program and its `decode` make the same samples.

    Args:
        codec: of the model.
        shape: of z of one sample.

    Raises:
        UserError: names the codec.
    """
    program = codec.program()
    if program is None:
        return
    z = 0.5 * torch.randn(SAMPLES, *shape, generator=torch.Generator().manual_seed(0))
    u, x = codec.decode(z), program.eval()(z)
    exported = Pixels().decode(x) if codec.visible else x
    if u.shape != x.shape or not (u.double() - exported.double()).abs().max() <= (
        1 if codec.visible else CLOSE
    ):
        raise UserError(
            f"{codec_name(codec)} cannot be exported: its program() makes other samples than its decode(), "
            "which is wrong: images x of a program are u = 127.5 x + 127.5"
        )
