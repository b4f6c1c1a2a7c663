"""What the hub answers over plain HTTP: its health and its metrics."""
