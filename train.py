"""python train.py experiment=ict_cifar10: train, resume, sweep. configs/train.yaml lists the choices."""

import hydra
from omegaconf import DictConfig

from consistency.command.checks import check_command
from consistency.console import explained, guarded, loading
from consistency.schema.swaps import drop_replaced


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def main(config: DictConfig) -> float | None:
    """Train as configured; the value a sweep optimises comes back."""
    with explained():
        drop_replaced(config)
        check_command(config, "train")
        with loading():  # torch and lightning, only once the config stands
            from consistency.run import train

        return train(config)


if __name__ == "__main__":
    guarded(main)
