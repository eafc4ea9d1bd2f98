"""One training run: its loop, processes, checkpoints, signals and journal."""
