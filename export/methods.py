"""Method names of signatures: which of TensorFlow Serving's requests they are made for."""

CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"
