"""Weights that other programs wrote, and the same for other programs to read."""
