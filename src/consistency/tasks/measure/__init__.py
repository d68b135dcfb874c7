"""How good is a model? Fidelity, ladders of calls, gaps."""
