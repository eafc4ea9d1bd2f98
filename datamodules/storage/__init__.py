"""The storage of a data set: a folder, object storage or the web, with a cache on this machine."""
