"""The REST API: HTTP, what a request means, and its JSON."""
