"""Where the bytes of a data set are: a folder, object storage or the web, with a cache on this machine."""
