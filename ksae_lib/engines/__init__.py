"""Training engines: one semantics, several implementations."""
