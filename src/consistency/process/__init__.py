"""Which process of a run is this, what is it called, and when does it stop?"""
