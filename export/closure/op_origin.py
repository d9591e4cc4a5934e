"""Where a node of a SavedModel came from: the way to it, the layer, the tokenizer, the source line.

Keras opens a name scope of the layer's name around a layer's `call`, so that a node's name begins
with the layers that it lies in. Tokenizers have no scope, but a SavedModel that was written with
`tf.saved_model.SaveOptions(save_debug_info=True)` tells the Python lines of every node.
"""

from __future__ import annotations

from pathlib import Path, PurePath

from tensorflow.core.framework import graph_debug_info_pb2

from export.closure.graph_calls import CallChains

DEBUG_INFO = Path("debug") / "saved_model_debug_info.pb"
_LIBRARIES = ("site-packages/", "dist-packages/", "/lib/python3")
_Frames = list[tuple[str, int, str]]


class Origins:
    """Says where nodes came from.

    Args:
        folder: the SavedModel's folder.
        chains: CallChains of its MetaGraph.

    Raises:
        ValueError: the debug information in the folder is damaged.
    """

    def __init__(self, folder: Path, chains: CallChains):
        self._chains = chains
        self._info = graph_debug_info_pb2.GraphDebugInfo()
        path = folder / DEBUG_INFO
        if path.is_file():
            try:
                self._info.ParseFromString(path.read_bytes())
            except Exception as error:  # DecodeError is not the same class in every protobuf
                raise ValueError(f"{path}: not readable as debug information: {error}") from error

    def of(self, function: str, node: str) -> str:
        """One line: the way, then the layer, tokenizer and source line as far as they are known.

        Args:
            function: name of the function that holds the node, empty for the graph itself.
            node: its name.
        """
        parts = [self._chains.to(function, node)]
        scope = node.rpartition("/")[0]
        if scope:
            parts.append(f"layer scope {scope}")
        frames = self._frames(function, node)
        for path, line, name in frames:
            if "tokenizers" in PurePath(path).parts[:-1]:
                parts.append(f"tokenizer {_place(path, line, name)}")
                break
        own = [frame for frame in frames if not any(part in frame[0] for part in _LIBRARIES)]
        if own:
            parts.append(_place(*own[-1]))
        return "; ".join(dict.fromkeys(parts))

    def _frames(self, function: str, node: str) -> _Frames:
        """The Python calls that made a node, outermost first; none if they are not recorded."""
        key = f"{node}@{function}"
        if key in self._info.traces:
            frames = self._info.traces[key].file_line_cols
        elif key in self._info.name_to_trace_id:
            trace = self._info.traces_by_id[self._info.name_to_trace_id[key]]
            frames = trace.file_line_cols or [self._info.frames_by_id[i] for i in trace.frame_id]
        else:
            frames = []
        return [(self._info.files[f.file_index], f.line, f.func) for f in frames]


def _place(path: str, line: int, name: str) -> str:
    return f"{'/'.join(PurePath(path).parts[-3:])}:{line} {name}"
