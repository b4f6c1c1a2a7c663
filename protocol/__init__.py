"""What hub and peers agree on. Pure: no sockets, no store, no clock, no randomness, no logging."""
