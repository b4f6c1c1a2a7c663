"""Whole hubs, agents and clients on a virtual clock, with seeded faults. See `tests.support.simulation.world`."""
