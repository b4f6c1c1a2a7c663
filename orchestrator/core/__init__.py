"""What the hub decides: pure, without I/O, clock or randomness."""
