"""Golden pairs: requests with the Keras model's own answers, asked again of what was exported."""
