"""What can be asked of each signature, as the fields of the page's form; from metadata alone."""

from collections.abc import Iterator, Mapping

import numpy as np
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo

from export import DEFAULT_SIGNATURE
from export.tensors import DTYPES, decode_tensor

_FIRST = ("system", "message", "question", "context", "text")


def forms(signatures: Mapping[str, SignatureDef]) -> list[dict[str, object]]:
    """The signatures, the one to begin with first: name, method, fields, names of outputs, and
    whether a message of a conversation is asked for, in place of its `role` and `content`.

    A field is a "text", a "line" or a "number" of each row, or JSON: "json" of all that has other
    axes, "example" of the features of a tf.Example.
    """
    names = sorted(name for name in signatures if not name.startswith("__"))
    default = DEFAULT_SIGNATURE
    # The default one has the tensors of the signature that it stands for, and is left out.
    for name in names if default in names else ():
        if name != default and _tensors(signatures[name]) == _tensors(signatures[default]):
            names.remove(default)
            default = name
            break
    names.sort(key=lambda name: ("chat", default, name).index(name))
    return [
        {
            "name": name,
            "method": signatures[name].method_name.rpartition("/")[2],
            "fields": sorted(_fields(signatures, name), key=_place),
            "outputs": sorted(signatures[name].outputs),
            "chat": _is_chat(signatures[name]),
        }
        for name in names
    ]


def _tensors(signature: SignatureDef) -> list[str]:
    return sorted(info.name for info in signature.outputs.values())


def _is_chat(signature: SignatureDef) -> bool:
    return {*signature.inputs} >= {"role", "content"} and "content" in signature.outputs


def _place(field: Mapping[str, object]) -> tuple[int, object]:
    name = field["name"]
    return _FIRST.index(name) if name in _FIRST else len(_FIRST), name


def _fields(signatures: Mapping[str, SignatureDef], name: str) -> Iterator[dict[str, object]]:
    signature = signatures[name]
    inputs = signature.inputs
    if not signature.method_name.endswith("/predict"):
        # Nothing says what is in the examples; models with `text` read it there as `predict` does.
        inputs = signatures["predict"].inputs if "predict" in signatures else {}
        if "text" not in inputs:
            yield {"name": "example", "kind": "example", "start": "{}", "option": False}
            return
    left_out = set()
    if _is_chat(signature):
        left_out = {"role", "content"}
        yield {"name": "message", "kind": "text", "start": "", "option": False}
        yield {"name": "system", "kind": "line", "start": "", "option": False}
    for key in {*inputs} - left_out:
        yield _field(key, inputs[key], signature)


def _field(name: str, info: TensorInfo, signature: SignatureDef) -> dict[str, object]:
    dtype = DTYPES.get(info.dtype, np.dtype(object))
    rank = None if info.tensor_shape.unknown_rank else len(info.tensor_shape.dim)
    kind, start = "json", None
    if rank in (0, 1) and dtype.kind in "fiu":
        kind = "number"
    elif rank in (0, 1) and info.dtype == types_pb2.DT_STRING:
        kind = "line" if name in signature.defaults or rank == 0 else "text"
    if name in signature.defaults:
        array = decode_tensor(signature.defaults[name])
        start = _plain(array[0] if array.ndim and len(array) else array)  # of one row
    return {
        "name": name,
        "kind": kind,
        "start": ([] if kind == "json" else "") if start is None else start,
        "option": name in signature.defaults,
        "rows": bool(rank),
    }


def _plain(value: object) -> object:
    if isinstance(value, np.ndarray | np.generic):
        value = value.astype(str).astype(float) if value.dtype.kind == "f" else value  # 0.7: short
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
