"""From a folder to a servable that has answered the warm-up requests stored with it."""

import dataclasses
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis import prediction_log_pb2

from export.model_folder import WARMUP_FILE
from export.server.api.classification import classify, multi_inference, regress
from export.server.api.inference import predict
from export.server.run.batching import BatchingParameters, parameters_of_model
from export.server.run.servable import Servable, ServableOptions
from export.server.status import LOG, ServingError, invalid

MAX_RECORDS = 1000
# For all larger batches together: a large model's would take minutes at each load.
_BATCHES_SECONDS = 10.0
_REPLAYS = {
    "predict_log": predict,
    "classify_log": classify,
    "regress_log": regress,
    "multi_inference_log": multi_inference,
}


@dataclasses.dataclass(frozen=True)
class Loader(ServableOptions):
    """Loads versions, all in one way: further arguments are those of ServableOptions.

    Args:
        batching: How requests are batched; None runs each by itself.
        per_model_batching: Whether, with `batching`, only versions with a `batching_params.pbtxt`
            in their folder are batched, and as that says.
        warm_up_iterations: How often each warm-up request is run; 0 for none.
    """

    batching: BatchingParameters | None = None
    per_model_batching: bool = False
    warm_up_iterations: int = 1

    def load(self, name: str, number: int, path: str) -> tuple[Servable, int]:
        """The servable of a version, and its number of warm-up requests; raises ServingError."""
        batching, servable = self.batching, None
        if batching is not None and self.per_model_batching:
            batching = parameters_of_model(path, batching)
        try:
            servable = Servable(name, number, path, batching, self)
            return servable, warm_up(servable, self.warm_up_iterations)
        except Exception as error:
            if servable is not None:
                servable.close()
            if isinstance(error, ServingError):
                raise
            # Whatever a damaged file may make the loader raise.
            raise ServingError(grpc.StatusCode.UNKNOWN, str(error)) from error


def warm_up(servable: Servable, iterations: int = 1) -> int:
    """Runs every request of the warm-up file, also at each size of a batch; counts them."""
    path = os.path.join(servable.path, WARMUP_FILE)
    if not iterations or not tf.io.gfile.exists(path):
        return 0
    records = []
    for record in _records(path):
        if len(records) == MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {path}")
        for _ in range(iterations):
            _replay(servable, record, path)
        records.append(record)
    if servable.batching is None:
        return len(records)
    begin = time.monotonic()
    for size in servable.batching.batch_sizes[1:]:  # one row was run as the first of them
        for record in records:
            # A size takes about as long as all smaller ones together.
            if time.monotonic() - begin > _BATCHES_SECONDS / 2:
                LOG.info("batches of %d rows and more are not warmed up: %s", size, path)
                return len(records)
            try:
                _replay(_Repeated(servable, size), record, path)
            except ServingError as error:  # the records themselves could be run
                LOG.warning("no warm-up of a batch of %d rows, %s: %s", size, path, error)
                return len(records)
    return len(records)


class _Repeated:
    """A servable that runs a request of one row as a batch of that row."""

    def __init__(self, servable: Servable, rows: int):
        self._servable, self._rows = servable, rows

    def __getattr__(self, name: str):
        return getattr(self._servable, name)

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], clock=None) -> list:
        if any(value.shape[:1] != (1,) for value in feeds.values()):
            return self._servable.run(feeds, fetches, clock)
        feeds = {name: np.repeat(value, self._rows, axis=0) for name, value in feeds.items()}
        return [value[:1] for value in self._servable.run(feeds, fetches, clock)]


def _replay(servable: Servable | _Repeated, record: bytes, path: str) -> None:
    try:
        log = prediction_log_pb2.PredictionLog.FromString(record)
    except DecodeError as error:
        shown = record.decode("utf-8", "backslashreplace")
        raise invalid(f"Failed to parse warmup record: {shown} from {path}") from error
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
