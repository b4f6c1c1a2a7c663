"""The coordinator: the hub, its store, and the command line."""
