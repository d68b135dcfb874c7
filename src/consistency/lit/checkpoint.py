"""Writing checkpoint files: complete or not there."""

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
    """Writes beside the final name and renames: a kill at any moment leaves the older file whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write with a checksum, flush to disk, rename."""
        with replacing(Path(path), durable=True) as temporary, temporary.open("wb") as file:
            torch.save(sealed(checkpoint), file)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read tensors and plain data, verified; refuse the rest.

        The version of Lightning that the file names is not believed: by it Lightning would choose which
        migrations to run over the content. Checkpoints of this project need none.
        """
        return read_checkpoint(path) | {VERSION: lightning.__version__}
