"""The one error of reading models from folders, whoever wrote the folder."""

from __future__ import annotations


class BundleError(ValueError):
    """A model's folder is missing, unfinished, damaged, or of a kind that cannot be read."""
