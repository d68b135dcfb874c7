"""The command line: checks and rewriting before Hydra reads it, and explanations of errors afterwards."""
