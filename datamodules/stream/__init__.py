"""Batches for training: which clips, in which order, as which examples, through which memory."""
