"""What a sample is: prepare, pack, stream, decode."""
