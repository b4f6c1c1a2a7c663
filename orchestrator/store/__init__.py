"""Where the hub keeps everything: the contract (`base`), a Redis-compatible server, and its twin in memory.

Import the parts from their modules, so that `base` and the twin cost nobody a Redis client.
"""
