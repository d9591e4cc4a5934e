"""From a bundle to a SavedModel, and from a SavedModel to a server."""
