"""Video and audio in and out of files, and the faces in frames."""
