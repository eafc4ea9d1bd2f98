"""Figures of exported networks on the test split."""
