"""Face models of prepared data sets: pooled into one, and their motion written for other programs."""
