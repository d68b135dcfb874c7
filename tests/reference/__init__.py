"""Golden numbers and independently written formulas."""
