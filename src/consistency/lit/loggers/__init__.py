"""Loggers for the curves, pictures and texts of a run."""
