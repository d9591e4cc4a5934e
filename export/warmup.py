"""What a server runs before it lets clients in: each signature, at each size that matters.

The first run of a signature prepares its graph, which takes seconds; the first run at a batch size
and length lets oneDNN choose its kernels, which takes up to as long as the run itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow_serving.apis import prediction_log_pb2

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.golden.pairs import GoldenPair, strings
from export.signatures import functions_of, input_names
from zoo.bundle import Bundle
from zoo.generation.options import OPTIONS

# Parts of the longest text that the model reads in one piece.
_LENGTHS = (0.125, 0.5, 1.0)
_NEW_TOKENS = 2
# Floating-point operations of all these requests together: some 10 s of one core. A large model is
# warmed up at its smaller sizes alone, rather than for minutes at each load.
_BUDGET = 3e11
_WORDS = b"It was the best of times, it was the worst of times. " * 4


def warmup_requests(bundle: Bundle, pairs: Sequence[GoldenPair]) -> list[GoldenPair]:
    """The golden requests row by row, then each signature of texts at three lengths.

    One row each: a server refuses a request of more rows than its `max_batch_size`, which may be 1,
    and a warm-up request that is refused keeps it from loading the model. A model that would take
    more than about 10 s gets fewer lengths.
    """
    functions = functions_of(bundle)
    longest = bundle.config.text.max_length if bundle.config.text else bundle.model.context_length
    tokens_of_words = max(bundle.tokenizer.encode([_WORDS]).flat_values.shape[0], 1)
    # All of them: a server that batches puts no defaults beside several texts.
    options = {
        name: np.array([option.default], option.dtype.as_numpy_dtype)
        for name, option in OPTIONS.items()
    }
    options["max_new_tokens"] = np.array([_NEW_TOKENS], np.int32)
    budget = _BUDGET / (2 * bundle.config.parameters * len(functions))  # tokens of each signature
    requests = [row for pair in pairs for row in pair.split()]
    sizes = sorted({max(int(part * longest), 1) for part in _LENGTHS})
    for number, tokens in enumerate(sizes):
        budget -= tokens
        if budget < 0 and number:
            break
        length = max(len(_WORDS) * tokens // tokens_of_words, 1)
        text = (_WORDS * (1 + length // len(_WORDS)))[:length]
        for signature, function in functions.items():
            inputs = {name: strings([text]) for name in input_names(function)}
            inputs |= options if signature == "generate" else {}
            requests.append(GoldenPair(signature, inputs, {}))
    return requests


def write_warmup(requests: Sequence[GoldenPair], methods: Mapping[str, str], path: Path) -> None:
    """Writes requests as a TFRecord file of PredictionLog, which TensorFlow Serving replays.

    `methods` has the method names of signatures that are not for Predict.
    """
    with tf.io.TFRecordWriter(str(path)) as writer:
        for pair in requests:
            log = prediction_log_pb2.PredictionLog()
            method = methods.get(pair.signature)
            if method in (CLASSIFY_METHOD, REGRESS_METHOD):
                kind = log.classify_log if method == CLASSIFY_METHOD else log.regress_log
                request = kind.request
                for serialized in pair.inputs["inputs"]:
                    request.input.example_list.examples.add().MergeFromString(serialized)
            else:
                request = log.predict_log.request
                for name, value in pair.inputs.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            request.model_spec.name = "default"  # a server ignores the name in a warm-up record
            request.model_spec.signature_name = pair.signature
            writer.write(log.SerializeToString())
