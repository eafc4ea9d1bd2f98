"""Data sets as they are downloaded, one file each: a plain folder, MEAD, HDTF."""
