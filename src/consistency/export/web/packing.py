"""Binary files inside scripts: a page that was opened from a disk may load scripts, and nothing else."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from torch import Tensor


def packed(content: bytes) -> str:
    """Gzip in base64; the same bytes give the same text."""
    return base64.b64encode(gzip.compress(content, 9, mtime=0)).decode()


def unpacked(text: str) -> bytes:
    """The other way."""
    return gzip.decompress(base64.b64decode(text))


def floats(x: Tensor) -> str:
    """The numbers of x, packed as little-endian float32."""
    return packed(x.detach().contiguous().numpy().astype("<f4").tobytes())


def script(path: Path, **constants: Any) -> Path:
    """Write a classic script that declares constants of plain data."""
    lines = [f"const {name} = {json.dumps(value)};\n" for name, value in constants.items()]
    path.write_text('"use strict";\n' + "".join(lines), "utf-8")
    return path


def constants(path: Path) -> dict[str, Any]:
    """What such a script declares."""
    lines = path.read_text("utf-8").splitlines()[1:]
    pairs = (line.removeprefix("const ").removesuffix(";").split(" = ", 1) for line in lines)
    return {name: json.loads(value) for name, value in pairs}
