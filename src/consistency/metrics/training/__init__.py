"""Training of the classifiers that are shipped as feature extractors, a script for each."""
