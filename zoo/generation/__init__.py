"""Text from a causal model: the token loop, sampling, scoring, and the options of a request."""
