"""Backbones and heads in keras.ops and Keras layers: they run on every Keras backend."""
