"""Engines: the way from a loss to new weights, the same on any number of processes."""
