"""Writing checkpoint files: complete or not there."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from consistency.errors import UserError
from consistency.teachers.checkpoint import read_checkpoint
from consistency.teachers.sealed import sealed


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the final name and renames: a kill at any moment leaves the older file whole."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write with a checksum, flush to disk, rename."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.tmp")  # of a run that was killed: overwritten
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(sealed(checkpoint), file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UserError(
                f"checkpoint {path} cannot be written ({error.strerror}): check run_dir"
            ) from error

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read tensors and plain data, verified; refuse the rest."""
        return read_checkpoint(path)
