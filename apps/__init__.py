"""The `emohead` command, which a person runs."""
