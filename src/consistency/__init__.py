"""Consistency models: every method of the family is one training step with other parts plugged in."""
