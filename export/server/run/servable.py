"""One loaded SavedModel: its signatures, and a session that runs them.

TensorFlow Serving does not call Python functions: it restores the graph tagged `serve` into a
session and runs from the tensors a signature names as inputs to those it names as outputs. So does
this module, and a SavedModel that works here works there.
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the TF-Text ops that a model's graph may hold
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2
from tensorflow.core.protobuf import config_pb2, rewriter_config_pb2
from tensorflow.python.client import pywrap_tf_session

from export.closure.graph import called, compiled_functions, is_xla, node_name
from export.server.run.batched_runs import BatchedRuns
from export.server.run.batching import BatchingParameters
from export.server.run.request_clock import remaining, running
from export.server.status import ServingError

# How long the first run of a signature may hold up others.
_PREPARE_SECONDS = 10.0


class Servable:
    """A SavedModel in a graph and session of its own, safe to run from many threads.

    Args:
        name: str. The model's name, as clients ask for it.
        version: int. The version's number.
        path: str. The version's folder, the one that holds `saved_model.pb`.
        batching: BatchingParameters | None. How runs share batches; None runs each by itself.
        tags: Tags of the MetaGraph to load.
        session_config: ConfigProto | None. Threads, memory of a GPU and more of the session.

    Raises:
        ServingError: the folder holds no SavedModel, or one that is incomplete, lacks the tag
            `serve` or uses an op that this process does not know.

    Example:
        >>> servable = Servable("half_plus_two", 1, "/models/half_plus_two/1")
        >>> y = servable.signatures["serving_default"].outputs["y"].name
        >>> servable.run({"serving_default_x:0": np.float32([2])}, [y])
        [array([3.], dtype=float32)]
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: str,
        *,
        batching: BatchingParameters | None = None,
        tags: Sequence[str] = ("serve",),
        session_config: config_pb2.ConfigProto | None = None,
    ):
        self.name = name
        self.version = version
        self.path = path
        self.tensor_content = False  # the form of the tensors that Predict answers with
        self.compiles = False  # whether XLA may run
        self.max_generated_tokens = 0  # of one Predict, rows x max_new_tokens; 0 for no limit
        self._graph = tf.Graph()
        config = config_pb2.ConfigProto()
        if session_config is not None:
            config.CopyFrom(session_config)
        if batching is not None:
            # What is in a batch is optimized again where it is called; one pass out here is enough.
            config.graph_options.rewrite_options.meta_optimizer_iterations = (
                rewriter_config_pb2.RewriterConfig.ONE
            )
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        self._callables: dict[tuple[tuple[str, ...], tuple[str, ...]], object] = {}
        self._known: dict[tuple[str, ...], list] = {}
        self._lock = threading.Lock()
        self._prepared: set[tuple] = set()  # of feeds and fetches that have run
        self._preparing: dict[tuple, threading.Lock] = {}
        self._ranks: dict[str, int] = {}  # of the inputs that declare one
        try:
            # The signatures are copied out so that the GraphDef, weights folded into constants
            # included, is not held a second time.
            with self._graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(self._session, [*tags], path)
        except BaseException as error:
            self._session.close()
            raise _load_error(path, tags, error) from error
        self.signatures = dict(meta_graph.signature_def)
        for signature in self.signatures.values():
            for info in signature.inputs.values():
                if not info.tensor_shape.unknown_rank:
                    self._ranks[info.name] = len(info.tensor_shape.dim)
        self._compiled = _CompiledNodes(meta_graph.graph_def)
        self.batching = batching
        self._batched = None
        if batching is None:
            self._graph.finalize()
        else:
            self._batched = BatchedRuns(self._graph, self._call, batching)

    def input_dtype(self, tensor: str) -> int | None:
        """The DataType that a graph tensor takes when it is fed; None when there is no such."""
        try:
            return self._graph.get_tensor_by_name(tensor).dtype.base_dtype.as_datatype_enum
        except (KeyError, ValueError):  # the run says what is wrong, in the graph's own words
            return None

    def run(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> list[np.ndarray]:
        """Runs the graph once.

        Args:
            feeds: Tensor name to value; the dtypes must be those that the graph declares.
            fetches: Tensor names, in any order, repeated or not.

        Returns:
            One array per name in `fetches`, in that order. Strings are arrays of `bytes` objects.

        Raises:
            ServingError: an op failed; code and message are the graph's own. INTERNAL `XLA
                compilation disabled` for a graph that must be compiled, as TensorFlow Serving
                says. DEADLINE_EXCEEDED when the deadline (`request_clock.due_in`) passes: the run
                is ended.
        """
        where = "" if self.compiles else self._compiled.reached_from(fetches)
        if where:
            raise ServingError(
                grpc.StatusCode.INTERNAL, f"XLA compilation disabled\n\t [[{where}]]"
            )
        # Sorted: clients that list the same names in another order share one pruned graph.
        feed_names, fetch_names = tuple(sorted(feeds)), tuple(sorted(set(fetches)))
        values = None
        try:
            with running():
                if self._batched is not None and feeds and self._fit(feeds):
                    values = self._batched.run(feeds, fetch_names)
                if values is None:
                    fed = [feeds[name] for name in feed_names]
                    values = self._run_alone(feed_names, fed, fetch_names)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ServingError.from_tensorflow(error) from error
        by_name = dict(zip(fetch_names, map(_as_array, values), strict=True))
        return [by_name[name] for name in fetches]

    def _fit(self, feeds: Mapping[str, np.ndarray]) -> bool:
        """Whether feeds may join a batch: one of another rank than declared would fail it."""
        return all(
            value.ndim in (0, self._ranks.get(name, value.ndim)) for name, value in feeds.items()
        )

    def _run_alone(
        self, feeds: tuple[str, ...], values: Sequence[np.ndarray], fetches: tuple[str, ...]
    ) -> Sequence:
        try:
            fed, fetched = self._outputs(feeds), self._outputs(fetches)
        except (KeyError, ValueError):  # a name that the graph lacks: the runtime says so better
            return self._call(feeds, values, fetches)
        # With and without a deadline in one way: a callable, a little quicker, takes no deadline,
        # and has a pruned graph of its own, which the warm-up would prepare in vain.
        left, options = remaining(), None
        if left is not None:  # 0 would be no timeout at all
            text = config_pb2.RunOptions(timeout_in_ms=max(1, round(left * 1000)))
            options = pywrap_tf_session.TF_NewBufferFromString(text.SerializeToString())
        try:
            with self._first_run((feeds, fetches), left):
                return pywrap_tf_session.TF_SessionRun_wrapper(
                    self._session._session, options, dict(zip(fed, values)), fetched, [], None
                )
        finally:
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    @contextlib.contextmanager
    def _first_run(self, key: tuple, left: float | None) -> Iterator[None]:
        """Others wait for the first run of a signature: each would prepare the graph anew.

        A failed batch brings them all at once, while no run by itself has been prepared.
        """
        if key in self._prepared:
            yield
            return
        lock = self._preparing.setdefault(key, threading.Lock())
        taken = lock.acquire(
            timeout=min(_PREPARE_SECONDS, _PREPARE_SECONDS if left is None else max(left, 0))
        )
        if taken and key in self._prepared:  # by the thread that this one waited for
            lock.release()
            taken = False
        try:
            yield
        finally:
            self._prepared.add(key)
            if taken:
                lock.release()

    def _outputs(self, names: tuple[str, ...]) -> list:
        if names not in self._known:
            self._known[names] = [
                self._graph.get_tensor_by_name(name)._as_tf_output() for name in names
            ]
        return self._known[names]

    def _call(
        self, feeds: Sequence[str], values: Sequence[np.ndarray], fetches: Sequence[str]
    ) -> Sequence:
        return self._callable(tuple(feeds), tuple(fetches))(*values)

    def _callable(self, feeds: tuple[str, ...], fetches: tuple[str, ...]):
        with self._lock:
            if (feeds, fetches) not in self._callables:
                # Not Session.make_callable: it resolves names in Python and rewrites the errors of
                # ops, where this one answers with the runtime's message, as a C++ server does.
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                made = self._session._make_callable_from_options(options)
                self._callables[feeds, fetches] = made
            return self._callables[feeds, fetches]

    def close(self) -> None:
        """Frees the session; no run may be under way or follow."""
        self._callables.clear()
        self._session.close()


def _as_array(value) -> np.ndarray:
    # A scalar string arrives as bytes; numpy would give it a fixed width and cut trailing NULs.
    return np.asarray(value, dtype=object if isinstance(value, bytes) else None)


def _load_error(path: str, tags: Sequence[str], error: BaseException) -> BaseException:
    """The loader's exception as the status TensorFlow Serving reports for the same folder."""
    code = grpc.StatusCode
    if isinstance(error, (tf.errors.OpError, UnicodeDecodeError)):
        return ServingError.from_tensorflow(error)
    if isinstance(error, OSError) and "does not exist" in str(error):
        return ServingError(
            code.NOT_FOUND,
            "Specified file path does not appear to contain a SavedModel bundle (should have a "
            f"file called `saved_model.pb`)\nSpecified file path: {path}",
        )
    if isinstance(error, OSError):  # half copied: the file ends before the message does
        return ServingError(code.OUT_OF_RANGE, "Read less bytes than requested")
    if isinstance(error, RuntimeError) and "MetaGraphDef" in str(error):
        return ServingError(
            code.NOT_FOUND,
            "Could not find meta graph def matching supplied tags: "
            f"{{ {' '.join(sorted(tags))} }}. To inspect available tag-sets in the SavedModel, "
            "please use the SavedModel CLI: `saved_model_cli`",
        )
    if isinstance(error, ValueError) and "checkpoint" in str(error):
        return ServingError(
            code.NOT_FOUND, f"The variables of the SavedModel are missing or incomplete: {error}"
        )
    return error


class _CompiledNodes:
    """Finds what a served graph may not hold: nodes that only XLA can run.

    TensorFlow's Python package compiles them, TensorFlow Serving (by default) refuses. A model
    that was tried here must not fail there, so this server refuses too.
    """

    def __init__(self, graph: graph_pb2.GraphDef):
        self._functions = {f.signature.name: f for f in graph.library.function}
        self._compiled = compiled_functions(self._functions)
        every_node = [*graph.node, *(node for f in self._functions.values() for node in f.node_def)]
        self._any = bool(self._compiled) or any(map(is_xla, every_node))
        # Kept only for the rare model that needs the search below.
        self._nodes = {node.name: node for node in graph.node} if self._any else {}
        self._found: dict[tuple[str, ...], str] = {}

    def reached_from(self, fetches: Sequence[str]) -> str:
        """Names the first such node that running `fetches` may reach; empty when there is none."""
        if not self._any:
            return ""
        key = tuple(sorted(set(fetches)))
        if key not in self._found:
            self._found[key] = next(self._search(key), "")
        return self._found[key]

    def _search(self, fetches: Sequence[str]) -> Iterator[str]:
        pending, seen = [node_name(fetch) for fetch in fetches], set()
        searched: set[str] = set()
        while pending:
            name = pending.pop()
            if name in seen or name not in self._nodes:
                continue
            seen.add(name)
            yield from self._inside(self._nodes[name], "", searched)
            pending.extend(map(node_name, self._nodes[name].input))

    def _inside(
        self, node: node_def_pb2.NodeDef, function: str, searched: set[str]
    ) -> Iterator[str]:
        callees = [name for name in called(node) if name in self._functions]
        if is_xla(node) or any(name in self._compiled for name in callees):
            prefix = f"{{{{function_node {function}}}}}" if function else ""
            yield f"{prefix}{{{{node {node.name}}}}}"
        for name in callees:
            if name not in searched:
                searched.add(name)
                definition: function_pb2.FunctionDef = self._functions[name]
                for inner in definition.node_def:
                    yield from self._inside(inner, name, searched)
