"""Predict on a servable, by the rules and with the error texts of TensorFlow Serving."""

from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef, TensorInfo
from tensorflow_serving.apis import model_pb2, predict_pb2

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.server.api.tensors import decode_tensor, dtype_name, encode_tensor
from export.server.run.servable import Servable
from export.server.status import RequestClock, ServingError, invalid
from zoo.generation.options import MAX_NEW_TOKENS

Inputs = dict[str, tuple[int, np.ndarray | None]]  # tensor -> dtype and value
Arrays = Mapping[str, np.ndarray]
_NEW_TOKENS = "max_new_tokens"  # the input by which a signature is known to generate
_METHODS = (tf.saved_model.PREDICT_METHOD_NAME, CLASSIFY_METHOD, REGRESS_METHOD)


def predict(
    servable: Servable, request: predict_pb2.PredictRequest, clock: RequestClock | None = None
) -> predict_pb2.PredictResponse:
    """Answers Predict on this servable, whatever model the request names."""
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise ServingError(
            grpc.StatusCode.FAILED_PRECONDITION, f'Serving signature key "{name}" not found.'
        )
    if servable.options.checks_method_names and signature.method_name not in _METHODS:
        raise ServingError(
            grpc.StatusCode.INTERNAL,
            "Expected prediction signature method_name to be one of "
            f"{{{', '.join(_METHODS)}}}. Was: {signature.method_name}",
        )
    inputs = _inputs(signature, request.inputs)
    aliases = _outputs(signature, request.output_filter)
    feeds = checked_feeds(servable, inputs)
    _check_work(servable, signature, feeds)
    try:
        values = servable.run(feeds, [signature.outputs[alias].name for alias in aliases], clock)
    except ServingError as error:
        # Says first which inputs have another shape than is declared. Only now: TensorFlow Serving
        # does not check declared shapes, and what runs is answered.
        shapes = {alias: feeds[info.name].shape for alias, info in signature.inputs.items()}
        wrong = wrong_shapes(signature.inputs, shapes)
        rows = {alias: shape[0] if shape else "none" for alias, shape in sorted(shapes.items())}
        if not wrong and servable.batching is not None and len({*rows.values()}) > 1:
            rows = ", ".join(f'"{alias}" has {count}' for alias, count in rows.items())
            wrong = f"requests are batched here, so that all inputs need as many rows: {rows}"
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT or not wrong:
            raise
        raise invalid(f"{wrong}: {error.message}") from error
    response = predict_pb2.PredictResponse()
    for alias, value in zip(aliases, values, strict=True):
        encode_tensor(value, response.outputs[alias], servable.options.tensor_content)
    fill_spec(response.model_spec, request.model_spec, servable)
    return response


def fill_spec(answer: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, servable: Servable) -> None:
    """Says which version and signature answered."""
    answer.name = asked.name
    answer.version.value = servable.version
    answer.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _check_work(servable: Servable, signature: SignatureDef, feeds: Arrays) -> None:
    """Refuses to generate more than the server's limit: rows x the largest `max_new_tokens`."""
    limit = servable.options.max_generated_tokens
    if not limit or _NEW_TOKENS not in signature.inputs:
        return
    wanted = feeds[signature.inputs[_NEW_TOKENS].name]
    if wanted.dtype.kind not in "iu" or not wanted.size:
        return
    rows = max(len(value) if value.ndim else 1 for value in feeds.values())
    each = min(int(wanted.max()), MAX_NEW_TOKENS)
    if rows * each > limit:
        raise invalid(
            f"{rows} rows of up to {each} tokens ({_NEW_TOKENS}) are {rows * each} tokens, more "
            f"than the {limit} of --max_generated_tokens; send fewer rows at a time, or a smaller "
            f"{_NEW_TOKENS}"
        )


def wrong_shapes(inputs: Mapping[str, TensorInfo], shapes: Mapping[str, Sequence[int]]) -> str:
    """Says which shapes are not those that the inputs of a signature declare; empty for none."""
    wrong = []
    for alias in sorted({*inputs} & {*shapes}):
        declared, shape = inputs[alias].tensor_shape, [*shapes[alias]]
        if not tf.TensorShape(declared).is_compatible_with(shape):
            needed = [dim.size for dim in declared.dim]
            wrong.append(
                f'input "{alias}" has shape {shape}, but the model needs {needed} (-1 is any size)'
            )
    return "; ".join(wrong)


def _inputs(signature: SignatureDef, sent: Mapping[str, tensor_pb2.TensorProto]) -> Inputs:
    """Tensor name -> (dtype, value) of every input, from the request or from the defaults."""
    names, expected = sorted(sent), sorted(signature.inputs)
    if not signature.defaults and len(names) != len(expected):
        extra, missing = sorted({*names} - {*expected}), sorted({*expected} - {*names})
        raise invalid(
            f"input size does not match signature: {len(names)}!={len(expected)} "
            f"len({{{','.join(names)}}}) != len({{{','.join(expected)}}}). "
            f"Sent extra: {{{','.join(extra)}}}. Missing but required: {{{','.join(missing)}}}."
        )
    inputs = {}
    for alias in expected:
        tensor = signature.inputs[alias].name
        # get, never []: looking a key up by [] adds it to a proto's map.
        proto = sent.get(alias) or signature.defaults.get(alias)
        if proto is None:
            raise invalid(
                f"Signature input alias: {alias}(feed name: {tensor}) not found in request and "
                "no default value provided. Inputs expected to be in the request "
                f"{{{','.join(names)}}}, or default input alias set: "
                f"{','.join(sorted(signature.defaults))}"
            )
        try:
            inputs[tensor] = proto.dtype, decode_tensor(proto)
        except ValueError as error:
            raise invalid(f"tensor parsing error: {alias}") from error
    used = [name for name in names if name in signature.inputs]
    if used != names:
        raise invalid(
            f"Inputs contains invalid name. Used request inputs: {','.join(used)}, "
            f"request input: {','.join(names)}"
        )
    return inputs


def _outputs(signature: SignatureDef, wanted: Sequence[str]) -> Sequence[str]:
    """The output names to compute: those of the filter, else all."""
    for place, alias in enumerate(wanted):
        if alias not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {alias} "
                f"Outputs expected to be in the set {{{','.join(sorted(signature.outputs))}}}."
            )
        if alias in wanted[:place]:
            raise invalid(f"duplicate output tensor alias: {alias}")
    return wanted or sorted(signature.outputs)


def checked_feeds(servable: Servable, inputs: Inputs) -> Arrays:
    """The values alone, once their dtypes are those of the graph (shapes are not checked)."""
    for position, tensor in enumerate(sorted(inputs)):
        given, expected = inputs[tensor][0], servable.input_dtype(tensor)
        if expected is not None and given != expected:
            raise invalid(
                f"Expects arg[{position}] to be {dtype_name(expected)} "
                f"but {dtype_name(given)} is provided"
            )
    return {tensor: value for tensor, (_, value) in inputs.items()}
