"""Faces in pictures: where they are, 478 points on each, and how they are followed through a video."""
