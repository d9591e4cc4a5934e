"""Where a run computes: one device, several, several machines; the global batch stays the same."""

from trainers.distribution.strategies import Distribution, make_distribution

__all__ = ["Distribution", "make_distribution"]
