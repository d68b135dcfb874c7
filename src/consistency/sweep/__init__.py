"""Several runs of one command, and the tables they leave."""

from consistency.sweep.table import Table as Table
