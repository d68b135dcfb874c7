"""python eval.py task=sample ckpt_path=PATH: ask something of a trained checkpoint (configs/task/)."""

import hydra
from omegaconf import DictConfig

from consistency.console import explained, guarded


@hydra.main(version_base="1.3", config_path="configs", config_name="eval")
def main(config: DictConfig) -> None:
    """Run the task."""
    with explained():
        from consistency.evaluate import evaluate  # torch is loaded only once the config stands

        evaluate(config)


if __name__ == "__main__":
    guarded(main)
