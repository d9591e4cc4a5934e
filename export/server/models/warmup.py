"""Replays the requests stored with a SavedModel, so that no client pays for a first run."""

import os
import time
from collections.abc import Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from absl import logging
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from export.server.api.classification import classify_on, multi_inference_on, regress_on
from export.server.api.inference import predict_on
from export.server.run.servable import Servable, ServingError

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
MAX_RECORDS = 1000
# For all larger batches together: a large model's would take minutes at each load.
_BATCHES_SECONDS = 10.0
_REPLAYS = {
    "predict_log": predict_on,
    "classify_log": classify_on,
    "regress_log": regress_on,
    "multi_inference_log": multi_inference_on,
}


def warm_up(servable: Servable, iterations: int = 1) -> int:
    """Runs every request of the warm-up file, a TFRecord file of PredictionLog.

    The model name in a request is ignored, as TensorFlow Serving ignores it. Where requests are
    batched, those of one row are run at each larger size of a batch, too, for some 10 s at most.

    Args:
        servable: Servable. What is asked.
        iterations: int. How often each request is run; 0 does not even read the file.

    Returns:
        How many records were read; 0 when the SavedModel has no warm-up file.

    Raises:
        ServingError: the file is damaged, holds more than 1,000 records, or a request in it fails.
    """
    path = os.path.join(servable.path, WARMUP_FILE)
    if not iterations or not tf.io.gfile.exists(path):
        return 0
    count, records = 0, []
    for record in _records(path):
        count += 1
        if count > MAX_RECORDS:
            raise ServingError(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}",
            )
        for _ in range(iterations):
            _replay(servable, record, path)
        records.append(record)
    if servable.batching is not None:
        _replay_batches(servable, records, path)
    return count


def _replay_batches(servable: Servable, records: Sequence[bytes], path: str) -> None:
    begin = time.monotonic()
    for size in servable.batching.batch_sizes[1:]:  # one row was run as the first of them
        for record in records:
            # A size takes about as long as all smaller ones together.
            if time.monotonic() - begin > _BATCHES_SECONDS / 2:
                logging.info("batches of %d rows and more are not warmed up: %s", size, path)
                return
            try:
                _replay(_Repeated(servable, size), record, path)
            except ServingError as error:  # the records themselves could be run
                logging.warning("no warm-up of a batch of %d rows, %s: %s", size, path, error)
                return


class _Repeated:
    """A servable that runs a request of one row as a batch of that row."""

    def __init__(self, servable: Servable, rows: int):
        self._servable, self._rows = servable, rows

    def __getattr__(self, name: str):
        return getattr(self._servable, name)

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        if any(value.shape[:1] != (1,) for value in feeds.values()):
            return self._servable.run(feeds, fetches)
        feeds = {name: np.repeat(value, self._rows, axis=0) for name, value in feeds.items()}
        return [value[:1] for value in self._servable.run(feeds, fetches)]


def _replay(servable: Servable, record: bytes, path: str) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        shown = record.decode("utf-8", "backslashreplace")
        raise ServingError(
            grpc.StatusCode.INVALID_ARGUMENT,
            f"Failed to parse warmup record: {shown} from {path}",
        ) from error
    kind = log.WhichOneof("log_type")
    if kind in _REPLAYS:
        _REPLAYS[kind](servable, getattr(log, kind).request)
    elif kind is not None:  # TensorFlow Serving accepts an empty record
        number = log.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(
            grpc.StatusCode.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}"
        )


def _records(path: str) -> Iterator[bytes]:
    try:
        yield from tf.data.TFRecordDataset(path).as_numpy_iterator()
    except tf.errors.DataLossError as error:
        # Without the name of the op that happened to read it.
        message = error.message.split("}} ")[-1].split(" [Op:")[0]
        raise ServingError(
            grpc.StatusCode.DATA_LOSS,
            f"{message}. Please verify your warmup data is in TFRecord format.",
        ) from error
