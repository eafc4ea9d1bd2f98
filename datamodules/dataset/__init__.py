"""A prepared data set on disk: tars of clips, their manifest and index; written, read, verified, changed."""
