"""Tasks that measure a model: fidelity, the ladder over numbers of calls, gaps."""
