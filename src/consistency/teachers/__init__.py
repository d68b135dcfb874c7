"""Who taught it? Files of weights, ours and other people's, as denoisers."""
