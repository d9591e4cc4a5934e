"""Trains a zoo model from a recipe: text in, a bundle (a folder with everything) out."""
