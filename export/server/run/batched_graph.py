"""A signature's part of a session graph, as a function that TensorFlow's batch scheduler calls.

TensorFlow Serving batches in C++, around the session. Its scheduler is also in the TensorFlow
package, inside the op BatchFunction: calls that meet there are concatenated along dimension 0, the
function runs once for all, and the outputs are split again. So the nodes between the fed and the
fetched tensors are copied into a function, and a BatchFunction node that calls it joins the graph.
What holds the weights (resource handles, and the values of variables of the old kind) is not
copied: the function captures it.
"""

from collections.abc import Sequence

import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2

from export.server.run.batching import BatchingParameters

LATE = "every request of the batch is past its deadline"
_SHARED_NAME = "batches"  # one set of threads for all queues of a session


class NotBatchable(Exception):
    """The nodes between the fed and the fetched tensors cannot be a function."""


class BatchedGraph:
    """Nodes that batch the runs from some tensors to others.

    Args:
        graph: tf.Graph. The graph of the session, not finalized; the nodes are added to it.
        library: FunctionDefLibrary. The functions of that graph.
        feeds: Names of the tensors that are fed.
        fetches: Names of the tensors to compute. Dimension 0 of each must be the batch.
        ranks: The number of dimensions of each feed where inputs of different lengths are padded;
            None where they are not.
        parameters: BatchingParameters. How to batch.
        queue: str. A name of its own in this session.

    Raises:
        NotBatchable: a node on the way changes a variable of the old kind.
    """

    def __init__(
        self,
        graph: tf.Graph,
        library: function_pb2.FunctionDefLibrary,
        feeds: Sequence[str],
        fetches: Sequence[str],
        ranks: Sequence[int] | None,
        parameters: BatchingParameters,
        queue: str,
    ):
        self._feeds, self._fetches = feeds, fetches
        dtypes = [graph.get_tensor_by_name(feed).dtype.base_dtype for feed in feeds]
        self._ranks = ranks or [1] * len(feeds)
        inside, captured = _between(graph, feeds, fetches)
        self._captured = captured
        self._nodes = _graph_def(inside, library)
        with graph.as_default(), tf.control_dependencies(None), graph.device(None):
            deadlines = tf.compat.v1.placeholder(tf.float64, [None])  # (B,)
            parts = [_placeholders(d, rank) for d, rank in zip(dtypes, self._ranks, strict=True)]
            flat = [deadlines, *(tensor for part in parts for tensor in part)]
            specs = [tf.TensorSpec(None, tensor.dtype) for tensor in flat]
            function = tf.function(self._batch, autograph=False).get_concrete_function(*specs)
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

    def _batch(self, *flat: tf.Tensor) -> list[tf.Tensor]:
        """What BatchFunction calls. It does not optimize its function, as a session does its
        graph; a call that is not inlined is optimized before its first run."""
        run = tf.function(self._run, autograph=False, experimental_attributes={"_noinline": True})
        return run(*flat)

    def _run(self, deadlines: tf.Tensor, *flat: tf.Tensor) -> list[tf.Tensor]:
        """The function: what one batch computes. Runs inside its graph, once, to build it."""
        # Here the batch has left the queue, and nobody waits for it any more if all are late.
        in_time = tf.reduce_any(deadlines > tf.timestamp())
        with tf.control_dependencies([tf.debugging.Assert(in_time, [LATE])]):
            flat = [tf.identity(tensor) for tensor in flat]
        tensors = {name: tf.identity(tensor) for name, tensor in self._captured.items()}
        for feed, rank in zip(self._feeds, self._ranks, strict=True):
            part, flat = flat[: _part_size(rank)], flat[_part_size(rank) :]
            tensors[feed] = part[0] if len(part) == 1 else _padded(*part)
        used = {name for node in self._nodes.node for name in map(_tensor_name, node.input)}
        inner = [name for name in self._fetches if name not in tensors]
        found = tf.graph_util.import_graph_def(
            self._nodes,
            input_map={name: tensor for name, tensor in tensors.items() if name in used},
            return_elements=inner,
            name="",
        )
        tensors.update(zip(inner, found, strict=True))
        return [tf.identity(tensors[name]) for name in self._fetches]


def _between(
    graph: tf.Graph, feeds: Sequence[str], fetches: Sequence[str]
) -> tuple[list[tf.Operation], dict[str, tf.Tensor]]:
    """The operations to copy, and the tensors that come from what is not copied."""
    fed = {*feeds}
    pending = [graph.get_tensor_by_name(name) for name in fetches if name not in fed]
    inside: dict[tf.Operation, None] = {}
    captured: dict[str, tf.Tensor] = {}
    operations: list[tf.Operation] = []
    while pending or operations:
        if pending:
            tensor = pending.pop()
            if tensor.name in fed:
                continue
            if _is_state(tensor):
                captured[tensor.name] = tensor
                continue
            operations.append(tensor.op)
        operation = operations.pop()
        if operation in inside:
            continue
        if any(_is_reference(tensor) for tensor in (*operation.inputs, *operation.outputs)):
            raise NotBatchable(f"{operation.name} ({operation.type}) changes a variable")
        inside[operation] = None
        pending.extend(operation.inputs)
        operations.extend(operation.control_inputs)
    return list(inside), captured


def _is_state(tensor: tf.Tensor) -> bool:
    """Whether a tensor is a handle to state, or is read from a variable of the old kind."""
    source = tensor.op
    if not source.inputs:
        return tensor.dtype in (tf.resource, tf.variant)
    return source.type in ("Identity", "Enter") and _is_reference(source.inputs[0])


def _is_reference(tensor: tf.Tensor) -> bool:
    return tensor.dtype != tensor.dtype.base_dtype


def _graph_def(
    operations: Sequence[tf.Operation], library: function_pb2.FunctionDefLibrary
) -> graph_pb2.GraphDef:
    graph_def = graph_pb2.GraphDef(library=library)
    graph_def.node.extend(operation.node_def for operation in operations)
    return graph_def


def _tensor_name(node_input: str) -> str:
    return node_input if ":" in node_input else f"{node_input}:0"


def _allowed_sizes(parameters: BatchingParameters) -> list[int]:
    if not parameters.allowed_batch_sizes:
        if parameters.execution_batch_size < parameters.max_batch_size:
            # The op takes the size to split at from here alone. All sizes: nothing is filled up.
            return list(range(1, parameters.execution_batch_size + 1))
        return []
    # As TensorFlow Serving: the first entry that is large enough, so a smaller later one is idle.
    sizes: list[int] = []
    for size in parameters.allowed_batch_sizes:
        if not sizes or size > sizes[-1]:
            sizes.append(size)
    return sizes


# --- inputs of different lengths


def _part_size(rank: int) -> int:
    return 1 if rank < 2 else 3


def _placeholders(dtype: tf.DType, rank: int) -> list[tf.Tensor]:
    if rank < 2:
        return [tf.compat.v1.placeholder(dtype, None)]
    return [
        tf.compat.v1.placeholder(tf.string, [None]),  # (B,) the rows, serialized
        tf.compat.v1.placeholder(tf.int64, [None, rank - 1]),  # (B, rank - 1) their shapes
        tf.compat.v1.placeholder(dtype, [None]),  # (B,) what to fill each up with
    ]


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
