"""The command `consistency-train`, `python -m consistency.train` or train.py: train, resume, sweep.

configs/train.yaml lists the choices.
"""

import hydra
from omegaconf import DictConfig

from consistency.command.checks import check_command
from consistency.command.packages import trust_as_configured
from consistency.console import explain_errors, guarded, loading
from consistency.files.configs import CONFIGS
from consistency.schema.swaps import drop_replaced


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
def configured(config: DictConfig) -> float | None:
    """Train as configured; returns the metric that a sweep optimises."""
    with explain_errors():
        trust_as_configured(config)
        drop_replaced(config)
        check_command(config, "train")
        with loading():  # torch and lightning are imported only after the config has been checked
            from consistency.run import train

        return train(config)


def main() -> None:
    """The command."""
    guarded(configured)


if __name__ == "__main__":
    main()
