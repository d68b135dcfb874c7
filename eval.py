"""python eval.py task=sample ckpt_path=PATH: ask something of a trained checkpoint (configs/task/)."""

from consistency.eval import main

if __name__ == "__main__":
    main()
