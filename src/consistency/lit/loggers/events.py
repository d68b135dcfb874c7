"""The first step of a TensorBoard event file, for files that a checkpoint does not list."""

from contextlib import suppress
from pathlib import Path


def begun_at(path: Path) -> int | None:
    """The step of the first summary in an event file; None where there is none that can be read.

    Args:
        path: of a regular file.
    """
    from google.protobuf.message import DecodeError
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    with suppress(DecodeError):
        for event in EventFileLoader(str(path)).Load():
            if event.WhichOneof("what") == "summary":
                return event.step
    return None
