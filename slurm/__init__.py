"""The scripts that SLURM runs, and a cluster on one machine."""
