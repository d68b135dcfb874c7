"""A callback that tests add to a run by its config, to see what every process saw."""

from pathlib import Path

from lightning import Callback


class Mark(Callback):
    """Writes step and N(k) of every step to `curriculum-<rank>.txt`."""

    def __init__(self, directory):
        self.directory = Path(directory)

    def on_train_batch_start(self, trainer, pl_module, batch, index):
        with (self.directory / f"curriculum-{trainer.global_rank}.txt").open("a") as file:
            file.write(f"{trainer.global_step} {pl_module.progress(trainer.global_step)['N']}\n")
