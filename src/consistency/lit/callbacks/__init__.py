"""What watches a run: averages, curves, samples, distances, checkpoints. None of them decides."""
