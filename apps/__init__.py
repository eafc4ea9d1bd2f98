"""What a person runs: the `emohead` command."""
