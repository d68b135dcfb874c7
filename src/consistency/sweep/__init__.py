"""Several runs of one command: each a process of its own, found by what it is; and the tables they leave."""
