"""The command line, before and after Hydra has read it."""
