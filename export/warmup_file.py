"""The requests that TensorFlow Serving replays before it lets a model answer clients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import tensorflow as tf

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.golden.pairs import GoldenPair

WARMUP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"


def write_warmup(pairs: Sequence[GoldenPair], methods: Mapping[str, str], path: Path) -> None:
    """Writes the golden requests as a TFRecord file of PredictionLog.

    Args:
        pairs: the requests; their answers are not written.
        methods: signature name -> method name, of signatures that are not for Predict.
        path: the file; its folder exists.

    Example: `write_warmup(pairs, {"classify": CLASSIFY_METHOD}, folder / WARMUP_FILE)`
    """
    # Imported here: of all of export, only this and the server need the Serving protos.
    from tensorflow_serving.apis import prediction_log_pb2

    with tf.io.TFRecordWriter(str(path)) as writer:
        for pair in pairs:
            log = prediction_log_pb2.PredictionLog()
            method = methods.get(pair.signature)
            if method == CLASSIFY_METHOD:
                _add_examples(log.classify_log.request, pair)
            elif method == REGRESS_METHOD:
                _add_examples(log.regress_log.request, pair)
            else:
                request = log.predict_log.request
                for name, value in pair.inputs.items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
                _name(request, pair)
            writer.write(log.SerializeToString())


def _add_examples(request, pair: GoldenPair) -> None:
    for serialized in pair.inputs["inputs"]:
        request.input.example_list.examples.add().MergeFromString(serialized)
    _name(request, pair)


def _name(request, pair: GoldenPair) -> None:
    request.model_spec.name = "default"  # a server ignores the name in a warm-up record
    request.model_spec.signature_name = pair.signature
