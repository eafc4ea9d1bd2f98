"""What happens between a loss and new weights, alike on any number of processes."""
