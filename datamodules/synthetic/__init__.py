"""A made-up corpus of drawn, talking, acting people, for tests and the demo."""
