"""Scripts that train the classifiers shipped as feature extractors."""
