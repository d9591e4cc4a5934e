"""The REST API: `http` speaks HTTP, `routes` says what a request means, `json_*` reads and writes.

A package of its own because the gRPC side needs none of it.
"""
