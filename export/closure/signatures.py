"""What keeps a signature from being served in batches, or at all, whatever its ops are."""

from __future__ import annotations

from collections.abc import Iterator

from tensorflow.core.framework import tensor_shape_pb2, types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

_INTERNAL = "__"  # "__saved_model_init_op" and its like are no signatures for requests


def signature_problems(
    meta_graph: meta_graph_pb2.MetaGraphDef,
) -> Iterator[tuple[str, str, str, bool]]:
    """Yields (place, message, fix, whether it blocks) for each problem of a signature's tensors.

    Args:
        meta_graph: MetaGraphDef.
    """
    for name, signature in sorted(meta_graph.signature_def.items()):
        if name.startswith(_INTERNAL):
            continue
        for key, info in sorted(signature.outputs.items()):
            place = f"output {key!r} of signature {name!r}"
            yield from _output(place, info.tensor_shape)
        for key, info in sorted(signature.inputs.items()):
            shape = info.tensor_shape
            if not shape.unknown_rank and not shape.dim and info.WhichOneof("encoding") == "name":
                yield (
                    f"input {key!r} of signature {name!r}",
                    "it is a scalar: a server that batches refuses every request of this "
                    "signature, one that does not batch answers",
                    "give it the batch as first dimension, [None], as the other inputs",
                    False,
                )
        yield from _defaults(name, signature)


def _output(
    place: str, shape: tensor_shape_pb2.TensorShapeProto
) -> Iterator[tuple[str, str, str, bool]]:
    if shape.unknown_rank:
        return
    if not shape.dim:
        yield (
            place,
            "it is a scalar: the answers of a batch cannot be told apart, so a server that "
            "batches refuses it, and so do REST requests of rows",
            "return one value for each row, [batch], for instance with tf.fill or without the "
            "reduction over the batch",
            True,
        )
    elif shape.dim[0].size >= 0:
        yield (
            place,
            f"its first dimension is always {shape.dim[0].size}, not the number of rows asked "
            "for: a server that batches refuses it, and so do REST requests of rows",
            "make the batch its first dimension, with None in the shapes of the input signature",
            True,
        )


def _defaults(
    name: str, signature: meta_graph_pb2.SignatureDef
) -> Iterator[tuple[str, str, str, bool]]:
    for key, tensor in sorted(signature.defaults.items()):
        place = f"default of input {key!r} of signature {name!r}"
        fix = "give the tf.function a default value that fits its input_signature"
        if key not in signature.inputs:
            yield place, "there is no such input", fix, True
            continue
        info = signature.inputs[key]
        if tensor.dtype != info.dtype:
            wanted, got = types_pb2.DataType.Name(info.dtype), types_pb2.DataType.Name(tensor.dtype)
            yield place, f"it is {got}, the input {wanted}", fix, True
        sizes = [dim.size for dim in tensor.tensor_shape.dim]
        declared = [dim.size for dim in info.tensor_shape.dim]
        fits = info.tensor_shape.unknown_rank or (
            len(sizes) == len(declared)
            and all(want in (-1, size) for want, size in zip(declared, sizes))
        )
        if not fits:
            yield place, f"its shape is {sizes}, the input's {declared}", fix, True
