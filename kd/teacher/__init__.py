"""Where a teacher comes from, and what is kept of its outputs."""
