"""Checks of a composed config: keys, types and bounds, which are read from the constructors."""
