"""Runs of a session that share batches with each other."""

import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from absl import logging
from tensorflow.core.framework import tensor_pb2

from export.server.api.tensors import encode_tensor
from export.server.run.batched_graph import LATE, BatchedGraph, NotBatchable
from export.server.run.batching import BatchingParameters
from export.server.run.request_clock import remaining
from export.server.status import ServingError

# Each set of fed and fetched tensors has a queue of its own, with nodes in the graph. A client that
# filters outputs in ever new ways must not make the graph grow for ever.
_MAX_QUEUES = 64
# In a message of the function, not of BatchFunction itself.
_INSIDE = "\n\t [[BatchFunction"
# What BatchFunction adds to a message.
_ADDED = re.compile(
    r"\n\t \[\[\{\{node BatchFunction.*"
    r"|(?<=of the input tensors)\. 0th dimension size: .*"
)
_SHAPES = re.compile(
    r"(?:Dimensions|Ranks) of .*shape\[0\] = (\[.*?\]) vs\. shape\[\d+\] = (\[.*?\])"
)

Run = Callable[[Sequence[str], Sequence[np.ndarray], Sequence[str]], Sequence]


class BatchedRuns:
    """Runs that wait for each other, as `parameters` say, and run as one.

    Args:
        graph: tf.Graph. The graph of the session; batching adds nodes to it.
        run: Runs the session: names and values of the fed tensors, names of the fetched ones. It
            raises what TensorFlow raises.
        parameters: BatchingParameters. How to batch.
    """

    def __init__(self, graph: tf.Graph, run: Run, parameters: BatchingParameters):
        self._graph, self._run, self._parameters = graph, run, parameters
        self._library = graph.as_graph_def().library
        self._queues: dict[tuple, BatchedGraph | None] = {}
        self._lock = threading.Lock()

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> Sequence | None:
        """Runs once, most likely with others.

        Args:
            feeds: Tensor name to value, at least one; dimension 0 of each must be the batch.
            fetches: Tensor names, each once.

        Returns:
            The values of `fetches`; None when this run has to go by itself: a request of no rows
            (it would wait for others), tensors that no function can compute, or a batch whose run
            failed: by themselves the requests that were at fault fail, and no others.

        Raises:
            ServingError: INVALID_ARGUMENT when the values do not share dimension 0 or are too many
                rows, UNAVAILABLE when the queue is full, RESOURCE_EXHAUSTED when the deadline
                passed in the queue, DEADLINE_EXCEEDED when it passed in the run.
        """
        names = sorted(feeds)
        rows = _rows([feeds[name] for name in names])
        if rows == 0:
            return None
        padding = self._parameters.pad_variable_length_inputs
        ranks = tuple(feeds[name].ndim for name in names) if padding else None
        queue = self._queue(tuple(names), tuple(fetches), ranks)
        if queue is None:
            return None
        left = remaining()
        deadline = np.inf if left is None else time.time() + left
        values = [np.full([rows], deadline)]
        for name in names:
            values.extend(_parts(feeds[name]) if padding else [feeds[name]])
        try:
            found = self._run(queue.feeds, values, queue.fetches)
        except tf.errors.OpError as error:
            if _INSIDE in error.message and LATE not in error.message:
                return None
            raise _translated(error, {name: feeds[name] for name in names}) from error
        except UnicodeDecodeError:  # a run failed: its message quotes bytes of a request
            return None
        if time.time() > deadline:
            raise ServingError(
                grpc.StatusCode.DEADLINE_EXCEEDED, "Timed out waiting for notification"
            )
        return found

    def _queue(
        self, feeds: tuple[str, ...], fetches: tuple[str, ...], ranks: tuple[int, ...] | None
    ) -> BatchedGraph | None:
        key = feeds, fetches, ranks
        with self._lock:
            if key not in self._queues and len(self._queues) < _MAX_QUEUES:
                try:
                    self._queues[key] = BatchedGraph(
                        *(self._graph, self._library, feeds, fetches, ranks, self._parameters),
                        queue=str(len(self._queues)),
                    )
                except NotBatchable as error:
                    logging.warning("requests to %s run one by one: %s", ", ".join(fetches), error)
                    self._queues[key] = None
            return self._queues.get(key)


def _rows(values: Sequence[np.ndarray]) -> int:
    if any(value.ndim == 0 for value in values):
        raise _invalid("Batching Run() input tensors must have at least one dimension")
    if len({len(value) for value in values}) > 1:
        raise _invalid("Batching Run() input tensors must have equal 0th-dimension size")
    return len(values[0])


def _parts(value: np.ndarray) -> list[np.ndarray]:
    """A tensor that may be padded, as BatchedGraph takes it."""
    if value.ndim < 2:
        return [value]
    rows = np.empty([len(value)], object)
    for index, row in enumerate(value):
        proto = tensor_pb2.TensorProto()
        encode_tensor(row, proto)
        rows[index] = proto.SerializeToString()
    shapes = np.tile(np.int64(value.shape[1:]), [len(value), 1])
    nothing = b"" if value.dtype == object else value.dtype.type(0)
    fills = np.empty([len(value)], value.dtype)
    fills[:] = value.flat[0] if value.size else nothing
    return [rows, shapes, fills]


def _translated(error: tf.errors.OpError, feeds: Mapping[str, np.ndarray]) -> ServingError:
    """An error of the batching op in the words of TensorFlow Serving's batching."""
    if LATE in error.message:
        return ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Run() timeout exceeded while waiting in batching queue",
        )
    shapes = _SHAPES.match(error.message)
    if shapes and "BatchFunction" in error.message:
        return ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"Tensors with name '{_which(shapes.groups(), feeds)}' from different tasks have "
            "different shapes and padding is turned off.Set pad_variable_length_inputs to true, "
            "or ensure that all tensors with the same namehave equal dimensions starting with the "
            "first dim.",
        )
    known = ServingError.from_tensorflow(error)
    return ServingError(known.code, _ADDED.sub("", known.message))


def _which(shapes: Sequence[str], feeds: Mapping[str, np.ndarray]) -> str:
    """The first of the tensors whose shape is one of those that did not fit each other."""
    printed = {name: f"[{','.join(map(str, value.shape))}]" for name, value in feeds.items()}
    exact = [name for name, shape in printed.items() if shape in shapes]
    return (exact or sorted(feeds, key=lambda name: -feeds[name].ndim))[0]


def _invalid(message: str) -> ServingError:
    return ServingError(grpc.StatusCode.INVALID_ARGUMENT, message)
