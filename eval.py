"""python eval.py task=sample ckpt_path=PATH: ask something of a trained checkpoint (configs/task/)."""

import hydra
from omegaconf import DictConfig

from consistency.command.checks import check_command
from consistency.console import explained, guarded, loading


@hydra.main(version_base="1.3", config_path="configs", config_name="eval")
def main(config: DictConfig) -> None:
    """Run the task."""
    with explained():
        check_command(config, "eval")
        with loading():  # torch, only once the config stands
            from consistency.evaluate import evaluate

        evaluate(config)


if __name__ == "__main__":
    guarded(main)
