"""How is it shown? Reports, comparisons, pages and their curves."""
