"""One loaded SavedModel: its signatures, and a session that runs them, as in TensorFlow Serving."""

import dataclasses
import threading
import time
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
import tensorflow_text  # noqa: F401  registers the TF-Text ops that a model's graph may hold
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.client import pywrap_tf_session

from export.closure.graph import Graph, called, is_xla
from export.server.run.batching import BatchedRuns, BatchingParameters
from export.server.status import RequestClock, ServingError

# How long the first run of a signature may hold up others.
_PREPARE_SECONDS = 10.0
# Sets of outputs that are run as they are asked for; a client may filter outputs in ever new ways.
_MAX_WAYS = 64


@dataclasses.dataclass(frozen=True)
class ServableOptions:
    """How versions are loaded and asked, all in one way."""

    tags: tuple[str, ...] = ("serve",)  # of the MetaGraph to load
    session_config: config_pb2.ConfigProto | None = None
    compiles: bool = False  # graphs that only XLA can run; TensorFlow Serving refuses them
    tensor_content: bool = False  # in answers of Predict: quicker to read than the typed fields
    max_generated_tokens: int = 2**18  # of one Predict, rows x `max_new_tokens`; 0 for no limit
    checks_method_names: bool = False  # signatures answer only what their method name says


class _Way:
    """From which tensors to which ones a run goes, and whether the graph is prepared for it."""

    def __init__(self, feeds: tuple[str, ...], fetches: tuple[str, ...]):
        self.feeds, self.fetches = feeds, fetches
        self.first, self.prepared = threading.Lock(), threading.Event()


class Servable:
    """A SavedModel in a graph and session of its own, safe to run from many threads.

    `path` is the version's folder, the one that holds `saved_model.pb`. Raises ServingError when it
    holds no SavedModel, or one that is incomplete, lacks the tags or uses an unknown op.
    """

    def __init__(
        self,
        name: str,
        version: int,
        path: str,
        batching: BatchingParameters | None = None,
        options: ServableOptions | None = None,
    ):
        self.name, self.version, self.path, self.batching = name, version, path, batching
        self.options = options = options or ServableOptions()
        self._graph = tf.Graph()
        config = config_pb2.ConfigProto()
        config.MergeFrom(options.session_config or config)
        if batching is not None:
            # What is in a batch is optimized again where it is called; one pass out here is enough.
            # Without, as many as TensorFlow Serving does: golden pairs are replayed through this.
            config.graph_options.rewrite_options.meta_optimizer_iterations = (
                rewriter_config_pb2.RewriterConfig.ONE
            )
        self._session = tf.compat.v1.Session(graph=self._graph, config=config)
        try:
            # The signatures are copied out so that the GraphDef, weights folded into constants
            # included, is not held a second time.
            with self._graph.as_default():
                meta_graph = tf.compat.v1.saved_model.loader.load(
                    self._session, [*options.tags], path
                )
        except BaseException as error:
            self._session.close()
            raise _load_error(path, options.tags, error) from error
        self.signatures = dict(meta_graph.signature_def)
        self._ranks = {  # of the inputs that declare one
            info.name: len(info.tensor_shape.dim)
            for signature in self.signatures.values()
            for info in signature.inputs.values()
            if not info.tensor_shape.unknown_rank
        }
        self._widths = {  # of the inputs that may be left out: all but the rows of their defaults
            signature.inputs[name].name: [dim.size for dim in default.tensor_shape.dim][1:]
            for signature in self.signatures.values()
            for name, default in signature.defaults.items()
            if name in signature.inputs
        }
        self._compiled = {} if options.compiles else _compiled_nodes(meta_graph)
        self._lock = threading.Lock()
        self._ways: dict[tuple, _Way] = {}
        self._callables: dict[tuple, object] = {}
        self._tensors: dict[str, object] = {}  # by name, as the C API takes them
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

    def run(
        self,
        feeds: Mapping[str, np.ndarray],
        fetches: Sequence[str],
        clock: RequestClock | None = None,
    ) -> list[np.ndarray]:
        """Runs the graph once: one array per name in `fetches`; strings are `bytes` objects.

        The deadline of `clock` ends the run. Raises ServingError with the graph's code and message.
        """
        clock = clock or RequestClock()
        way = self._way(feeds, fetches)
        for name in way.fetches if self._compiled else ():
            if name in self._compiled:
                where = f"\n\t [[{self._compiled[name]}]]"
                raise ServingError(grpc.StatusCode.INTERNAL, f"XLA compilation disabled{where}")
        values, begin = None, time.monotonic()
        # One of another rank than declared would fail its batch, as one with more stop strings than
        # there are beside requests that leave them out.
        fits = all(
            v.ndim in (0, self._ranks.get(name, v.ndim))
            and (v.ndim < 2 or [*v.shape[1:]] == self._widths.get(name, [*v.shape[1:]]))
            for name, v in feeds.items()
        )
        try:
            if self._batched is not None and feeds and fits:
                values = self._batched.run(feeds, way.fetches, clock)
            if values is None:
                values = self._run_alone(way, [feeds[name] for name in way.feeds], clock)
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise ServingError.from_tensorflow(error) from error
        finally:
            clock.run_seconds += time.monotonic() - begin
        by_name = dict(zip(way.fetches, values, strict=True))
        # A scalar string arrives as bytes; numpy would give it a fixed width and cut trailing NULs.
        return [
            np.asarray(by_name[name], object if isinstance(by_name[name], bytes) else None)
            for name in fetches
        ]

    def _way(self, feeds: Mapping[str, np.ndarray], fetches: Sequence[str]) -> _Way:
        """What is known of runs from these tensors to those, in any order of their names."""
        key = tuple(sorted(feeds)), tuple(sorted({*fetches}))
        way = self._ways.get(key)
        if way is None:
            with self._lock:
                if len(self._ways) >= _MAX_WAYS:  # each has a pruned graph: compute all outputs
                    for signature in self.signatures.values():
                        outputs = {info.name for info in signature.outputs.values()}
                        inputs = {info.name for info in signature.inputs.values()}
                        if inputs == {*feeds} and outputs >= {*fetches}:
                            key = key[0], tuple(sorted(outputs))
                            break
                way = self._ways.setdefault(key, _Way(*key))
        return way

    def _run_alone(self, way: _Way, values: Sequence, clock: RequestClock) -> Sequence:
        try:
            fed = [self._tensor(name) for name in way.feeds]
            fetched = [self._tensor(name) for name in way.fetches]
        except (KeyError, ValueError):  # a name that the graph lacks: the runtime says so better
            return self._call(way.feeds, values, way.fetches)
        # With and without a deadline in one way: a callable, a little quicker, takes no deadline,
        # and has a pruned graph of its own, which the warm-up would prepare in vain.
        left, options = clock.remaining(), None
        if left is not None:  # 0 would be no timeout at all
            text = config_pb2.RunOptions(timeout_in_ms=max(1, round(left * 1000)))
            options = pywrap_tf_session.TF_NewBufferFromString(text.SerializeToString())
        # Others wait for the first run: each would prepare the graph anew. A failed batch brings
        # them all at once, while no run by itself has been prepared.
        if not way.first.acquire(blocking=False):
            way.prepared.wait(_PREPARE_SECONDS if left is None else min(_PREPARE_SECONDS, left))
        try:
            return pywrap_tf_session.TF_SessionRun_wrapper(
                self._session._session, options, dict(zip(fed, values)), fetched, [], None
            )
        finally:
            way.prepared.set()
            if options is not None:
                pywrap_tf_session.TF_DeleteBuffer(options)

    def _tensor(self, name: str):
        if name not in self._tensors:
            self._tensors[name] = self._graph.get_tensor_by_name(name)._as_tf_output()
        return self._tensors[name]

    def _call(self, feeds: Sequence[str], values: Sequence, fetches: Sequence[str]) -> Sequence:
        key = tuple(feeds), tuple(fetches)
        with self._lock:
            if key not in self._callables:
                # Not Session.make_callable: it resolves names in Python and rewrites the errors of
                # ops, where this one answers with the runtime's message, as a C++ server does.
                options = config_pb2.CallableOptions(feed=feeds, fetch=fetches)
                self._callables[key] = self._session._make_callable_from_options(options)
            call = self._callables[key]
        return call(*values)

    def close(self) -> None:
        """Frees the session; no run may be under way or follow."""
        self._callables.clear()
        self._session.close()


def _load_error(path: str, tags: Sequence[str], error: BaseException) -> BaseException:
    """The loader's exception as the status TensorFlow Serving reports for the same folder."""
    if isinstance(error, (tf.errors.OpError, UnicodeDecodeError)):
        return ServingError.from_tensorflow(error)
    code, text, message = grpc.StatusCode.NOT_FOUND, str(error), ""
    if isinstance(error, OSError) and "does not exist" in text:
        message = (
            "Specified file path does not appear to contain a SavedModel bundle (should have a "
            f"file called `saved_model.pb`)\nSpecified file path: {path}"
        )
    elif isinstance(error, OSError):  # half copied: the file ends before the message does
        code, message = grpc.StatusCode.OUT_OF_RANGE, "Read less bytes than requested"
    elif isinstance(error, RuntimeError) and "MetaGraphDef" in text:
        message = (
            "Could not find meta graph def matching supplied tags: "
            f"{{ {' '.join(sorted(tags))} }}. To inspect available tag-sets in the SavedModel, "
            "please use the SavedModel CLI: `saved_model_cli`"
        )
    elif isinstance(error, ValueError) and "checkpoint" in text:
        message = f"The variables of the SavedModel are missing or incomplete: {error}"
    return ServingError(code, message) if message else error


def _compiled_nodes(meta_graph: meta_graph_pb2.MetaGraphDef) -> dict[str, str]:
    """Output tensor -> the first node that it may reach and that only XLA can run."""
    graph = Graph(meta_graph)
    inner = (node for function in graph.functions.values() for node in function.node_def)
    if not graph.compiled and not any(map(is_xla, [*graph.nodes.values(), *inner])):
        return {}

    def first(tensor: str) -> str:
        for way, node in graph.reached([tensor]):
            if is_xla(node) or not graph.compiled.isdisjoint(called(node)):
                prefix = f"{{{{function_node {way[-1]}}}}}" if way else ""
                return f"{prefix}{{{{node {node.name}}}}}"
        return ""

    signatures = meta_graph.signature_def.values()
    outputs = {info.name for signature in signatures for info in signature.outputs.values()}
    return {tensor: node for tensor in outputs if (node := first(tensor))}
