"""Jobs of a SLURM cluster: one stage, a preparation, the whole chain, a sweep."""
