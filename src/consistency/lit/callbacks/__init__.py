"""Callbacks of the trainer: averages of weights, logs, samples, metrics, checkpoints, rollbacks, signals."""
