"""Reading of .npy files that may be damaged."""

import warnings
from pathlib import Path
from tokenize import TokenError
from typing import Literal

import numpy as np


def map_array(path: Path, mode: Literal["r", "r+"] = "r") -> np.ndarray:
    """The array of a .npy file, mapped into memory.

    Raises:
        ValueError: the header is damaged, or the array is longer than the file.
        OSError: the file cannot be read.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy takes a damaged header for one of Python 2
            return np.load(path, mmap_mode=mode)
    except (
        EOFError,
        SyntaxError,
        TokenError,
        TypeError,
        LookupError,
        AttributeError,
        ArithmeticError,
    ) as error:
        raise ValueError("it is no whole .npy file") from error
    except MemoryError as error:
        raise ValueError("its header says more than memory holds") from error
