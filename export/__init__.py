"""From a bundle to a SavedModel, and from a SavedModel to a server; names that both sides know."""

DEFAULT_SIGNATURE = "serving_default"
# TensorFlow lists what initialises a SavedModel among its signatures; it is not for requests.
INIT_OP = "__saved_model_init_op"
# A signature's method name says which of TensorFlow Serving's requests it is made for.
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
