"""Readers of files of weights, of this project and of others, as maps."""
