"""The tasks of eval.py: what can be done with a trained checkpoint."""
