"""Writes and reads the files of checkpoints for Lightning: atomic, with a checksum, without pickled code."""

from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from consistency.files.atomic import replacing
from consistency.teachers.checkpoint import read_checkpoint
from consistency.teachers.sealed import sealed

VERSION = "pytorch-lightning_version"  # key of a checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes to a temporary file and renames it, so that a kill at any moment leaves the older file whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write with a checksum, flush to disk, rename."""
        with replacing(Path(path), durable=True) as temporary, temporary.open("wb") as file:
            torch.save(sealed(checkpoint), file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint, see `read_checkpoint`: tensors and plain data only, verified.

        The version of Lightning in the file is replaced by the installed one: Lightning would choose
        migrations of the content by it, and checkpoints of this project need none.
        """
        return read_checkpoint(path) | {VERSION: lightning.__version__}
