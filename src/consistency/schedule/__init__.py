"""Which noise levels? Pure laws of the step, and every random number of a run."""
