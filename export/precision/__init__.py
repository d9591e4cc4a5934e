"""Exports with weights in fewer bits, and what they cost and give."""
