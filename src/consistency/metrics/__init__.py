"""How good is it? Distances between samples and data."""
