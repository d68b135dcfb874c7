"""What is made of a model? Samples, edits, solutions of inverse problems, exports."""
