"""Text in, answers out, as graph functions: what Python users and served models call."""
