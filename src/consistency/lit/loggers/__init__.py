"""Where the curves, pictures and texts of a run are logged."""
