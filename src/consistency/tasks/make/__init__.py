"""Tasks that make something from a model: samples, edits, reconstructions, exports."""
