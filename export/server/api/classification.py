"""Classify, Regress and MultiInference: tf.Examples in, class scores and numbers out."""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import inference_pb2, input_pb2
from tensorflow_serving.apis.classification_pb2 import ClassificationResponse, ClassificationResult
from tensorflow_serving.apis.regression_pb2 import RegressionResponse, RegressionResult

from export import CLASSIFY_METHOD, DEFAULT_SIGNATURE, REGRESS_METHOD
from export.server.api.inference import Arrays, checked_feeds, fill_spec
from export.server.run.servable import Servable
from export.server.status import RequestClock, ServingError, invalid


class _Task(NamedTuple):
    """One signature to evaluate on the examples of a request, and where its answer goes."""

    method: str
    tensors: Mapping[str, str]  # output -> tensor
    input: str
    result: ClassificationResult | RegressionResult


def _answer_one(method: str, kind: type, servable: Servable, request, clock=None):
    """Answers Classify or Regress on this servable, whatever model the request names."""
    name, response = request.model_spec.signature_name or DEFAULT_SIGNATURE, kind()
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    task = _task(servable, servable.signatures[name], method, response.result)
    _run(servable, request.input, [task], clock)
    fill_spec(response.model_spec, request.model_spec, servable)
    return response


# Of a servable, a request and, for a time limit, a clock.
classify = functools.partial(_answer_one, CLASSIFY_METHOD, ClassificationResponse)
regress = functools.partial(_answer_one, REGRESS_METHOD, RegressionResponse)


def multi_inference(
    servable: Servable,
    request: inference_pb2.MultiInferenceRequest,
    clock: RequestClock | None = None,
) -> inference_pb2.MultiInferenceResponse:
    """Answers MultiInference on this servable: one run of the graph for all tasks."""
    response = inference_pb2.MultiInferenceResponse()
    tasks, seen = [], set()
    for task in request.tasks:
        spec, method = task.model_spec, task.method_name
        if not spec.name:
            raise invalid("Found ModelSpec with an empty model name.")
        if spec.name != request.tasks[0].model_spec.name:
            raise invalid(
                "All ModelSpecs in a MultiInferenceRequest must access the same model name."
            )
        name = spec.signature_name or DEFAULT_SIGNATURE
        if name in seen:
            raise invalid(f"Duplicate evaluation of signature: {name}")
        seen.add(name)
        if name not in servable.signatures:
            raise invalid(f"Requested signature not found in model graph: {name}")
        if method not in (CLASSIFY_METHOD, REGRESS_METHOD):
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {method}"
            )
        result = response.results.add()
        classifies = method == CLASSIFY_METHOD
        part = result.classification_result if classifies else result.regression_result
        tasks.append(_task(servable, servable.signatures[name], method, part))
        fill_spec(result.model_spec, spec, servable)
    _run(servable, request.input, tasks, clock)
    return response


def _task(servable: Servable, signature: meta_graph_pb2.SignatureDef, method: str, result) -> _Task:
    """The task, once the signature is found fit for it."""
    classifies = method == CLASSIFY_METHOD
    kind = "classification" if classifies else "regression"
    wanted = ("classes", "scores") if classifies else ("outputs",)
    tensors = {name: signature.outputs[name].name for name in wanted if name in signature.outputs}
    count, problem = len(signature.outputs), ""
    if servable.options.checks_method_names and signature.method_name != method:
        problem = (
            f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
        )
    elif len(signature.inputs) != 1:
        problem = "Expected one input Tensor."
    elif classifies and count not in (1, 2):
        problem = f"Expected one or two output Tensors, found {count}"
    elif not classifies and count != 1:
        problem = "Expected one output Tensor."
    elif "inputs" not in signature.inputs:
        problem = f"No {kind} inputs found in SignatureDef: {_printed(signature)}"
    elif not tensors and not classifies:
        problem = f"No regression outputs found in SignatureDef: {_printed(signature)}"
    elif not tensors:
        problem = (
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {_printed(signature)}'
        )
    if problem:
        raise invalid(problem)
    return _Task(method, tensors, signature.inputs["inputs"].name, result)


def _printed(signature: meta_graph_pb2.SignatureDef) -> str:
    return text_format.MessageToString(signature)  # str() would leave the maps in any order


def _run(servable: Servable, request_input: input_pb2.Input, tasks: Sequence[_Task], clock) -> None:
    """Runs the graph once for all tasks, and writes their results."""
    kind = request_input.WhichOneof("kind")
    chosen = getattr(request_input, kind) if kind else None
    if chosen is None or not chosen.examples:
        raise invalid("Input is empty.")
    context = b""
    if kind == "example_list_with_context":
        context = chosen.context.SerializeToString()
    # Each example, (B,) serialized, is behind the context: parsers take the last value.
    examples = np.empty(len(chosen.examples), dtype=object)
    examples[:] = [context + example.SerializeToString() for example in chosen.examples]
    # A SavedModel of TensorFlow 2 has an input tensor for each signature: each is fed.
    given = {task.input: (types_pb2.DT_STRING, examples) for task in tasks}
    names = sorted({tensor for task in tasks for tensor in task.tensors.values()})
    values = servable.run(checked_feeds(servable, given), names, clock)
    by_name = dict(zip(names, values, strict=True))
    for task in tasks:
        arrays = {name: by_name[tensor] for name, tensor in task.tensors.items()}
        write = _write_classes if task.method == CLASSIFY_METHOD else _write_numbers
        write(arrays, len(examples), task.result)


def _write_classes(arrays: Arrays, rows: int, result: ClassificationResult) -> None:
    for name, array in arrays.items():  # classes first
        wanted = "DT_STRING" if name == "classes" else "DT_FLOAT"
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if _dtype(array) != wanted:
            raise invalid(f"Expected {name} Tensor of {wanted}. Got: {_dtype(array)}")
        if len(array) != rows:
            raise invalid(f"Expected {name} output batch size of {rows}. Got: {len(array)}")
    widths = [array.shape[1] for array in arrays.values()]
    if widths[0] != widths[-1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[-1]}"
        )
    labels, scores = (arrays[n].tolist() if n in arrays else None for n in ("classes", "scores"))
    for row in range(rows):
        classes = result.classifications.add().classes
        for column in range(widths[0]):
            one = classes.add()
            if labels is not None:
                one.label = _text(labels[row][column])
            if scores is not None:
                one.score = scores[row][column]


def _text(label: bytes) -> str:
    try:
        return label.decode()
    except UnicodeDecodeError as error:
        # TensorFlow Serving sends it, in a message that no client can then read.
        raise ServingError(
            grpc.StatusCode.INTERNAL, f"the class label {label!r} is not UTF-8"
        ) from error


def _write_numbers(arrays: Arrays, rows: int, result: RegressionResult) -> None:
    array = arrays["outputs"]
    if array.ndim != 1 and (array.ndim != 2 or array.shape[1] != 1):
        raise invalid(
            "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got "
            f"{_shape(array)}"
        )
    if len(array) != rows:
        raise invalid(f"Input batch size did not match output batch size: {rows} vs. {len(array)}")
    if _dtype(array) != "DT_FLOAT":
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {_dtype(array)}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _dtype(array: np.ndarray) -> str:
    return types_pb2.DataType.Name(tf.as_dtype(array.dtype).as_datatype_enum)


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
