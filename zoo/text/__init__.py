"""Strings in, answers out, as graph functions: one text model for each task."""
