"""Models as people use them: opened from a file, sampled, edited, exported."""
