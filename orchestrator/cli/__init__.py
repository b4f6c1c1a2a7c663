"""The `fleetline` command: the only place that knows both the coordinator and the agents.

Nothing heavy is imported before a command needs it, so that `fleetline --help` answers at once.
"""
