"""The process that runs: its rank, its name, the command it was started by, and stops by signals."""
