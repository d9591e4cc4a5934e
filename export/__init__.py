"""From a bundle to a SavedModel, and from a SavedModel to a server; names that both sides know."""

import os
import sys

DEFAULT_SIGNATURE = "serving_default"
# TensorFlow lists what initialises a SavedModel among its signatures; it is not for requests.
INIT_OP = "__saved_model_init_op"
# A signature's method name says which of TensorFlow Serving's requests it is made for.
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
# Keras, which TensorFlow brings along, imports these where it finds them, to plot and to wrap: near
# half of the time to start, and 200 MB. It does without where they cannot be imported.
_UNUSED = ("IPython", "jax", "matplotlib", "narwhals", "pandas", "scipy", "sklearn")


def leave_out_unused() -> None:
    """Call it first in a program of its own, before TensorFlow or Keras is imported."""
    for name in _UNUSED:
        sys.modules.setdefault(name, None)
    os.environ["KERAS_BACKEND"] = "tensorflow"  # of what is served, though the user's may be JAX
    # What fails raises an exception; what TensorFlow logs as errors besides is about GPUs that are
    # not there, oneDNN, and the costs of operations that batching's optimizer guesses.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
