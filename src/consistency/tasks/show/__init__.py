"""Presentation of results: reports, comparisons, pages and their curves."""
