"""What may a file bring? Whole files, checksums, bounded pickles, plain configs, a closed registry."""
