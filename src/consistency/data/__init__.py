"""How do data lie on disk and in memory? Batches by number, images of folders, caches, array files."""
