"""Files as untrusted input: atomic writes, checksums, bounded pickles, plain configs, a closed registry."""
