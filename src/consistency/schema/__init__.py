"""Is a command known and sound? The constructors are the schema."""
