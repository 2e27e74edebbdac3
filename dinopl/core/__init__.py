"""What the three packages stand on: torch, numpy, scipy and lightning only."""
