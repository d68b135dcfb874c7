"""`torchrun tests/late.py OVERRIDES`: train.py, which the second process reaches three seconds late."""

import os
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        time.sleep(3)
    sys.path.insert(0, str(ROOT))
    sys.argv[0] = str(ROOT / "train.py")
    runpy.run_path(sys.argv[0], run_name="__main__")
