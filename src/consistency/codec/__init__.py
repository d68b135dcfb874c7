"""Inputs and outputs of networks: pixels, points or another space of the data."""
