"""Hyperparameter sweeps: many trials of a stage, by any number of workers that share a folder and no server."""
