"""Commands beside training: thin shells over the library."""
