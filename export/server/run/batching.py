"""Batching: its parameters, as TensorFlow Serving has them, and runs that share batches."""

import dataclasses
import itertools
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, tensor_pb2

from export.model_folder import BATCHING_FILE
from export.server.api.tensors import encode_tensor
from export.server.config_files import BatchingParametersProto, read_text_proto
from export.server.status import LOG, RequestClock, ServingError, invalid, timed_out

# Parameter -> the least value that TensorFlow's scheduler can work with.
_LEAST = {
    "num_batch_threads": 1,
    "max_batch_size": 1,
    "batch_timeout_micros": 0,
    "max_enqueued_batches": 0,
    "max_execution_batch_size": 1,
}
_LATE = "every request of the batch is past its deadline"
_SHARED_NAME = "batches"  # one set of threads for all queues of a session
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

_Names = Sequence[str]
Run = Callable[[Sequence[str], Sequence[np.ndarray], Sequence[str]], Sequence]


def _usable_cpus() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclasses.dataclass(frozen=True)
class BatchingParameters:
    """Parameters of TensorFlow's batch scheduler.

    Args:
        max_batch_size: Rows of a batch; with `enable_large_batch_splitting`, of a request.
        batch_timeout_micros: How long a batch that is not full waits for more rows.
        max_enqueued_batches: Batches that may wait for a thread; further requests are refused.
        num_batch_threads: Batches of a version that run at one time; by default one a usable CPU.
        allowed_batch_sizes: Sizes that a batch is filled up to, ascending, the last one the
            largest batch; empty for any size.
        pad_variable_length_inputs: Whether inputs of different lengths are filled up to the
            longest one in the batch, each with the first element of its own tensor.
        enable_large_batch_splitting: Whether a request may be split over batches.
        max_execution_batch_size: Rows of a batch then; by default `max_batch_size`.

    Raises:
        ServingError: INVALID_ARGUMENT, a number that TensorFlow's scheduler cannot work with.
    """

    max_batch_size: int = 1000
    batch_timeout_micros: int = 0
    max_enqueued_batches: int = 10
    num_batch_threads: int = dataclasses.field(default_factory=_usable_cpus)
    allowed_batch_sizes: tuple[int, ...] = ()
    pad_variable_length_inputs: bool = False
    enable_large_batch_splitting: bool = False
    max_execution_batch_size: int | None = None

    def __post_init__(self):
        # TensorFlow Serving ends with a segmentation fault for some of these.
        for name, least in _LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                wanted = "positive" if least else "non-negative"
                raise invalid(f"{name} must be {wanted}; was {value}")
            if value is not None and value >= 2**31:
                raise invalid(f"{name} must be less than 2**31; was {value}")
        if self.execution_batch_size > self.max_batch_size:
            raise invalid(
                "max_execution_batch_size must be less than or equal to max_batch_size; was "
                f"{self.max_execution_batch_size}, which is more than {self.max_batch_size}"
            )
        sizes, splits = self.allowed_batch_sizes, self.enable_large_batch_splitting
        if splits and any(a >= b for a, b in itertools.pairwise(sizes)):
            raise invalid("allowed_batch_sizes entries must be monotonically increasing")
        if sizes and sizes[-1] != self.execution_batch_size:
            must = "be equal to max_execution_batch_size" if splits else "match max_batch_size"
            raise invalid(
                f"Last entry in allowed_batch_sizes must {must}; last entry was {sizes[-1]}; "
                f"expected {self.execution_batch_size}"
            )
        if min(sizes, default=1) <= 0:
            raise invalid(f"allowed_batch_sizes must be positive; were {list(sizes)}")

    @property
    def execution_batch_size(self) -> int:
        """The most rows that one batch may have."""
        if self.enable_large_batch_splitting and self.max_execution_batch_size is not None:
            return self.max_execution_batch_size
        return self.max_batch_size

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """Sizes that stand for all: those that batches are filled up to, else powers of two."""
        most = self.execution_batch_size
        powers = (*(2**power for power in range(most.bit_length()) if 2**power < most), most)
        return tuple(sorted({*self.allowed_batch_sizes})) or powers


def read_batching_parameters(path: str, **defaults: int) -> BatchingParameters:
    """Reads a BatchingParameters proto in text form, as `--batching_parameters_file` names it."""
    for field, value in read_text_proto(path, BatchingParametersProto).ListFields():
        if field.name == "allowed_batch_sizes":
            defaults[field.name] = tuple(value)
        elif field.name != "thread_pool_name":  # a name for monitoring alone
            defaults[field.name] = value.value if field.message_type else value
    return BatchingParameters(**defaults)


def parameters_of_model(folder: str, shared: BatchingParameters) -> BatchingParameters | None:
    """The parameters in a version's own folder, None without; `shared` has the threads."""
    path = os.path.join(folder, BATCHING_FILE)
    if not tf.io.gfile.exists(path):
        return None
    return read_batching_parameters(path, num_batch_threads=shared.num_batch_threads)


class _NotBatchable(Exception):
    """A node between the fed and the fetched tensors changes a variable of the old kind."""


# TensorFlow Serving's scheduler is in the op BatchFunction, which joins calls along dimension 0. So
# the nodes between the fed and the fetched tensors are copied into a function, which captures what
# holds the weights, and a BatchFunction node that calls it joins the graph.
class _BatchedGraph:
    """Nodes that batch the runs from some tensors to others; `ranks` of feeds that are padded."""

    def __init__(self, runs: "BatchedRuns", feeds: _Names, fetches: _Names, ranks, queue: str):
        graph, parameters = runs.graph, runs.parameters
        self._feeds, self._fetches = feeds, fetches
        self._ranks = ranks or [1] * len(feeds)
        inside, self._captured = _between(graph, feeds, fetches)
        nodes = [operation.node_def for operation in inside]
        self._nodes = graph_pb2.GraphDef(library=runs.library, node=nodes)
        with graph.as_default(), tf.control_dependencies(None), graph.device(None):
            flat = [tf.compat.v1.placeholder(tf.float64, [None])]  # (B,) deadlines
            for feed, rank in zip(feeds, self._ranks, strict=True):
                dtype = graph.get_tensor_by_name(feed).dtype.base_dtype
                if rank < 2:
                    flat.append(tf.compat.v1.placeholder(dtype, None))
                    continue
                flat += [
                    tf.compat.v1.placeholder(tf.string, [None]),  # (B,) the rows, serialized
                    tf.compat.v1.placeholder(tf.int64, [None, rank - 1]),  # their shapes
                    tf.compat.v1.placeholder(dtype, [None]),  # (B,) what to fill each up with
                ]
            specs = [tf.TensorSpec(None, tensor.dtype) for tensor in flat]
            # BatchFunction does not optimize its function, as a session does its graph; a call that
            # is not inlined is optimized before its first run.
            run = tf.function(
                self._run, autograph=False, experimental_attributes={"_noinline": True}
            )
            function = tf.function(lambda *t: run(*t), autograph=False).get_concrete_function(
                *specs
            )
            outputs = tf.raw_ops.BatchFunction(
                in_tensors=flat,
                captured_tensors=function.captured_inputs,
                f=function,
                Tout=[output.dtype for output in function.outputs],
                num_batch_threads=parameters.num_batch_threads,
                max_batch_size=parameters.max_batch_size,
                batch_timeout_micros=parameters.batch_timeout_micros,
                max_enqueued_batches=parameters.max_enqueued_batches,
                allowed_batch_sizes=_allowed_sizes(parameters),
                enable_large_batch_splitting=parameters.enable_large_batch_splitting,
                shared_name=_SHARED_NAME,
                batching_queue=queue,
            )
        self.feeds = [tensor.name for tensor in flat]
        self.fetches = [output.name for output in outputs]

    def _run(self, deadlines: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        """The function: what one batch computes. Runs inside its graph, once, to build it."""
        # Here the batch has left the queue, and nobody waits for it any more if all are late.
        in_time = tf.reduce_any(deadlines > tf.timestamp())
        with tf.control_dependencies([tf.debugging.Assert(in_time, [_LATE])]):
            parts = iter([tf.identity(tensor) for tensor in flat])
        tensors = {name: tf.identity(tensor) for name, tensor in self._captured.items()}
        for feed, rank in zip(self._feeds, self._ranks, strict=True):
            part = next(parts)
            tensors[feed] = part if rank < 2 else _padded(part, next(parts), next(parts))
        used = {name if ":" in name else f"{name}:0" for n in self._nodes.node for name in n.input}
        inner = [name for name in self._fetches if name not in tensors]
        found = tf.graph_util.import_graph_def(
            self._nodes,
            input_map={name: tensor for name, tensor in tensors.items() if name in used},
            return_elements=inner,
            name="",
        )
        tensors.update(zip(inner, found, strict=True))
        return [tf.identity(tensors[name]) for name in self._fetches]


def _between(graph: tf.Graph, feeds: _Names, fetches: _Names) -> tuple[list, dict[str, tf.Tensor]]:
    """The operations to copy, and the tensors that come from what is not copied."""
    pending: list[tf.Tensor | tf.Operation] = [*map(graph.get_tensor_by_name, fetches)]
    inside: dict[tf.Operation, None] = {}
    captured: dict[str, tf.Tensor] = {}
    while pending:
        found = pending.pop()
        if isinstance(found, tf.Tensor):
            if found.name in feeds:
                continue
            if _is_state(found):
                captured[found.name] = found
                continue
            found = found.op
        if found in inside:
            continue
        if any(_is_reference(tensor) for tensor in (*found.inputs, *found.outputs)):
            raise _NotBatchable(f"{found.name} ({found.type}) changes a variable")
        inside[found] = None
        pending.extend((*found.inputs, *found.control_inputs))
    return list(inside), captured


def _is_state(tensor: tf.Tensor) -> bool:
    """Whether a tensor is a handle to state, or is read from a variable of the old kind."""
    source = tensor.op
    if not source.inputs:
        return tensor.dtype in (tf.resource, tf.variant)
    return source.type in ("Identity", "Enter") and _is_reference(source.inputs[0])


def _is_reference(tensor: tf.Tensor) -> bool:
    return tensor.dtype != tensor.dtype.base_dtype


def _allowed_sizes(parameters: BatchingParameters) -> list[int]:
    sizes: list[int] = []
    # As TensorFlow Serving: the first entry that is large enough, so a smaller later one is idle.
    for size in parameters.allowed_batch_sizes:
        if not sizes or size > sizes[-1]:
            sizes.append(size)
    if not sizes and parameters.execution_batch_size < parameters.max_batch_size:
        # The op takes the size to split at from here alone. All sizes: nothing is filled up.
        return list(range(1, parameters.execution_batch_size + 1))
    return sizes


def _padded(rows: tf.Tensor, shapes: tf.Tensor, fills: tf.Tensor) -> tf.Tensor:
    """Rows of different shapes as one tensor, (B, the largest size of each dimension)."""
    largest = tf.reduce_max(shapes, axis=0)

    def pad(row):
        content, shape, fill = row
        after = largest - shape
        parsed = tf.reshape(tf.io.parse_tensor(content, fills.dtype), shape)
        return tf.pad(parsed, tf.stack([tf.zeros_like(after), after], axis=1), constant_values=fill)

    return tf.map_fn(
        pad, (rows, shapes, fills), fn_output_signature=tf.TensorSpec(None, fills.dtype)
    )


class BatchedRuns:
    """Runs that wait for each other, as `parameters` say, and run as one, by nodes in `graph`."""

    def __init__(self, graph: tf.Graph, run: Run, parameters: BatchingParameters):
        self.graph, self._run, self.parameters = graph, run, parameters
        self.library = graph.as_graph_def().library
        self._queues: dict[tuple, _BatchedGraph | None] = {}
        self._lock = threading.Lock()

    def run(
        self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str], clock: RequestClock
    ) -> Sequence | None:
        """Runs once, most likely with others; None when this run has to go by itself."""
        named = dict(sorted(feeds.items()))
        if any(value.ndim == 0 for value in named.values()):
            raise invalid("Batching Run() input tensors must have at least one dimension")
        if len({len(value) for value in named.values()}) > 1:
            raise invalid("Batching Run() input tensors must have equal 0th-dimension size")
        rows = len(next(iter(named.values())))
        padding = self.parameters.pad_variable_length_inputs
        ranks = tuple(value.ndim for value in named.values()) if padding else None
        # No rows would wait for others.
        queue = self._queue(tuple(named), tuple(fetches), ranks) if rows else None
        if queue is None:
            return None
        left = clock.remaining()
        deadline = np.inf if left is None else time.time() + left
        values = [np.full([rows], deadline)]
        for value in named.values():
            values += _parts(value) if padding and value.ndim > 1 else [value]
        try:
            found = self._run(queue.feeds, values, queue.fetches)
        except tf.errors.OpError as error:
            if _INSIDE in error.message and _LATE not in error.message:
                return None  # by themselves those at fault fail, and no others
            raise _translated(error, named) from error
        except UnicodeDecodeError:  # a run failed: its message quotes bytes of a request
            return None
        if time.time() > deadline:
            raise timed_out()
        return found

    def _queue(self, *key: tuple | None) -> _BatchedGraph | None:
        with self._lock:
            if key not in self._queues and len(self._queues) < _MAX_QUEUES:
                try:
                    self._queues[key] = _BatchedGraph(self, *key, queue=str(len(self._queues)))
                except _NotBatchable as error:
                    LOG.warning("requests to %s run one by one: %s", ", ".join(key[1]), error)
                    self._queues[key] = None
            return self._queues.get(key)


def _parts(value: np.ndarray) -> list[np.ndarray]:
    """A tensor that may be padded, as _BatchedGraph takes it."""
    rows = np.empty([len(value)], object)
    for index, row in enumerate(value):
        proto = tensor_pb2.TensorProto()
        encode_tensor(row, proto)
        rows[index] = proto.SerializeToString()
    shapes = np.tile(np.int64(value.shape[1:]), [len(value), 1])
    fills = np.empty([len(value)], value.dtype)
    nothing = b"" if value.dtype == object else value.dtype.type(0)
    fills[:] = value.flat[0] if value.size else nothing
    return [rows, shapes, fills]


def _translated(error: tf.errors.OpError, feeds: Mapping[str, np.ndarray]) -> ServingError:
    """An error of the batching op in the words of TensorFlow Serving's batching."""
    if _LATE in error.message:
        return ServingError(
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "Run() timeout exceeded while waiting in batching queue",
        )
    shapes = _SHAPES.match(error.message)
    if shapes and "BatchFunction" in error.message:
        # The first of the tensors whose shape is one of those that did not fit each other.
        printed = {name: f"[{','.join(map(str, v.shape))}]" for name, v in feeds.items()}
        exact = [name for name, shape in printed.items() if shape in shapes.groups()]
        which = exact or sorted(feeds, key=lambda name: -feeds[name].ndim)
        return ServingError(
            grpc.StatusCode.FAILED_PRECONDITION,
            f"Tensors with name '{which[0]}' from different tasks have "
            "different shapes and padding is turned off.Set pad_variable_length_inputs to true, "
            "or ensure that all tensors with the same namehave equal dimensions starting with the "
            "first dim.",
        )
    known = ServingError.from_tensorflow(error)
    return ServingError(known.code, _ADDED.sub("", known.message))
