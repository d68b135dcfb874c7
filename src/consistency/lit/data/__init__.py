"""Data sets as data modules of Lightning, each of which defines `load`; stores of teacher trajectories."""
