"""The input of Classify, Regress and MultiInference: tf.Examples, as the graph parses them."""

import numpy as np
from tensorflow_serving.apis import input_pb2

from export.server.api.inference import invalid


def serialized_examples(request_input: input_pb2.Input) -> np.ndarray:
    """The examples of a request, [B] serialized tf.Example.

    A context is merged into each example by putting its bytes before the example's: a feature that
    both have is the example's, because parsers take the last one.

    Raises:
        ServingError: there is no example.

    Example:
        >>> request_input.example_list.examples.add()
        >>> serialized_examples(request_input)
        array([b''], dtype=object)
    """
    kind = request_input.WhichOneof("kind")
    if kind is None:
        raise invalid("Input is empty.")
    chosen = getattr(request_input, kind)
    if not chosen.examples:
        raise invalid("Input is empty.")
    context = b""
    if kind == "example_list_with_context":
        context = chosen.context.SerializeToString()
    rows = np.empty(len(chosen.examples), dtype=object)
    rows[:] = [context + example.SerializeToString() for example in chosen.examples]
    return rows
