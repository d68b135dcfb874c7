"""The command `consistency-eval`, `python -m consistency.eval` or eval.py: do a task with a checkpoint.

configs/task/ lists the tasks.
"""

import hydra
from omegaconf import DictConfig

from consistency.command.checks import check_command
from consistency.command.packages import trust_as_configured
from consistency.console import explain_errors, guarded, loading
from consistency.files.configs import CONFIGS


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="eval")
def configured(config: DictConfig) -> None:
    """Run the task."""
    with explain_errors():
        trust_as_configured(config)
        check_command(config, "eval")
        with loading():  # torch is imported only after the config has been checked
            from consistency.evaluate import evaluate

        evaluate(config)


def main() -> None:
    """The command."""
    guarded(configured)


if __name__ == "__main__":
    main()
