"""Sweeps: several runs of one command, each a process of its own; searches; and their tables."""
