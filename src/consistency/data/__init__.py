"""Data on disk and in memory: batches by number, images of folders, caches, array files."""
