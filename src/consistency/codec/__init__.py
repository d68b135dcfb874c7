"""What do networks see? Pixels, points or another space of the data."""
