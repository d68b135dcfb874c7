"""What a value that differs from the checkpoint's means for a resumed run: allowed or not, by its key."""

from dataclasses import dataclass
from fnmatch import fnmatchcase

PART = "._target_"  # the end of a key that chooses a part


@dataclass(frozen=True)
class Effect:
    """What follows from a value that differs from that in the checkpoint.

    Args:
        allowed: whether the run resumes with the new value; else it is refused.
        reported: whether the change is listed in the line about changes and in the history of the run.
    """

    allowed: bool
    reported: bool = True


PLACE = Effect(allowed=True, reported=False)  # paths of the run, and how it was started
FREE = Effect(allowed=True)  # has no influence on weights: cost, length, place, or what is logged
RECORDED = Effect(allowed=True)  # has an influence on weights or metrics from this step on
REFUSED = Effect(allowed=False)  # makes it another run

RULES: dict[str, Effect] = {  # the first pattern that fits a key; a key that none fits is refused
    "run_dir": PLACE,
    "ckpt_path": PLACE,
    "trust": PLACE,
    "callbacks.samples.directory": PLACE,
    "callbacks.checkpoints.directory": PLACE,
    "logger.*.save_dir": PLACE,
    "trainer.max_steps": FREE,
    "trainer.devices": FREE,
    "trainer.num_nodes": FREE,
    "trainer.accelerator": FREE,
    "trainer.strategy*": FREE,
    "trainer.log_every_n_steps": FREE,
    "trainer.val_check_interval": FREE,
    "trainer.limit_val_batches": FREE,
    "trainer.enable_*": FREE,
    "trainer.benchmark": FREE,
    "trainer.accumulate_grad_batches": RECORDED,  # noise is drawn for each part of a step
    "trainer.precision": RECORDED,
    "trainer.gradient_clip_*": RECORDED,
    "logger*": FREE,  # the list of their names, and what each is given
    "debug.runs": PLACE,
    "debug.run*": REFUSED,  # a debug run is no part of an ordinary one
    "debug": RECORDED,  # debug=nan, with the next one: no weight follows from looking for NaN
    "trainer.detect_anomaly": FREE,
    "threads": FREE,
    "compile": FREE,
    "data_dir": FREE,
    "optimized_metric": FREE,
    "curriculum.K": FREE,  # the horizon, which is trainer.max_steps or refused
    "data.root": FREE,  # of this and the next two: the content is compared
    "data.cache": FREE,
    "data.skip_broken": FREE,
    "data.prefetch": FREE,
    "data.batches": RECORDED,
    "data.sample_batch": FREE,
    "data.batch_size": RECORDED,
    "data.samples": RECORDED,  # metrics are of another number of samples
    "optimizer.lr": RECORDED,
    "optimizer.betas*": RECORDED,
    "optimizer.eps": RECORDED,
    "optimizer.weight_decay": RECORDED,
    "optimizer.foreach": FREE,
    "rate": RECORDED,  # a pure function of the step
    "rate.*": RECORDED,
    "samplers.*": RECORDED,  # how validations make samples
    "metric": RECORDED,
    "metric.cache": FREE,
    "metric.extractor.weights": FREE,
    "metric.*": RECORDED,
    "teacher.path": FREE,
    "store.path": FREE,
    "store.max_gib": FREE,
    "ema.rampup": RECORDED,  # a pure function of the step; checkpoints of older versions have none
    "callbacks.ema.evaluate": RECORDED,
    "callbacks.ema": REFUSED,  # averages cannot begin, or pause, in the middle
    "callbacks.ema.*": REFUSED,
    "callbacks.guard*": RECORDED,  # it may lower the learning rate
    "callbacks.*": FREE,  # they watch
}


def effect(key: str) -> Effect:
    """What a change of this key does. Another part in a place is judged as the place is."""
    return next(
        (found for pattern, found in RULES.items() if fnmatchcase(key.removesuffix(PART), pattern)), REFUSED
    )
