"""Classify, Regress and MultiInference: tf.Examples in, class scores and numbers out.

As in `inference`, the rules and the wording of the errors are TensorFlow Serving's. It looks at
what a signature has and, unless it is told to, not at its method name.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    model_pb2,
    regression_pb2,
)

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.server.api.inference import DEFAULT_SIGNATURE, checked_feeds
from export.server.run.servable import Servable
from export.server.status import RequestClock, ServingError, invalid


@dataclasses.dataclass(frozen=True)
class _Task:
    """One signature to evaluate on the examples of a request, and where its answer goes."""

    method: str
    tensors: Mapping[str, str]  # output -> tensor
    input: str
    result: classification_pb2.ClassificationResult | regression_pb2.RegressionResult


def classify(
    servable: Servable,
    request: classification_pb2.ClassificationRequest,
    clock: RequestClock | None = None,
) -> classification_pb2.ClassificationResponse:
    """Answers Classify on this servable, whatever model the request names."""
    response = classification_pb2.ClassificationResponse()
    _answer_one(servable, request, response, CLASSIFY_METHOD, clock)
    return response


def regress(
    servable: Servable,
    request: regression_pb2.RegressionRequest,
    clock: RequestClock | None = None,
) -> regression_pb2.RegressionResponse:
    """Answers Regress on this servable, whatever model the request names."""
    response = regression_pb2.RegressionResponse()
    _answer_one(servable, request, response, REGRESS_METHOD, clock)
    return response


def _answer_one(servable: Servable, request, response, method: str, clock) -> None:
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    task = _task(servable, servable.signatures[name], method, response.result)
    _run(servable, request.input, [task], clock)
    _fill_spec(response.model_spec, request.model_spec, servable)


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
        signature = servable.signatures.get(name)
        if signature is None:
            raise invalid(f"Requested signature not found in model graph: {name}")
        if method not in (CLASSIFY_METHOD, REGRESS_METHOD):
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED, f"Unsupported signature method_name: {method}"
            )
        result = response.results.add()
        classifies = method == CLASSIFY_METHOD
        part = result.classification_result if classifies else result.regression_result
        tasks.append(_task(servable, signature, method, part))
        _fill_spec(result.model_spec, spec, servable)
    _run(servable, request.input, tasks, clock)
    return response


def _task(servable: Servable, signature: meta_graph_pb2.SignatureDef, method: str, result) -> _Task:
    """The task, once the signature is found fit for it."""
    kind = "classification" if method == CLASSIFY_METHOD else "regression"
    outputs = {name: info.name for name, info in signature.outputs.items()}
    if servable.options.checks_method_names and signature.method_name != method:
        raise invalid(
            f"Expected {kind} signature method_name to be {method}. Was: {signature.method_name}"
        )
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")
    if method == CLASSIFY_METHOD and len(outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(outputs)}")
    if method == REGRESS_METHOD and len(outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No {kind} inputs found in SignatureDef: {_printed(signature)}")
    if method == REGRESS_METHOD and "outputs" not in outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_printed(signature)}")
    wanted = ("classes", "scores") if method == CLASSIFY_METHOD else ("outputs",)
    tensors = {name: outputs[name] for name in wanted if name in outputs}
    if not tensors:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {_printed(signature)}'
        )
    return _Task(method, tensors, signature.inputs["inputs"].name, result)


def _printed(signature: meta_graph_pb2.SignatureDef) -> str:
    return text_format.MessageToString(signature)  # str() would leave the maps in any order


def serialized_examples(request_input: input_pb2.Input) -> np.ndarray:
    """The examples of a request, (B,) serialized tf.Example; raises when there is none.

    A context is merged into each example by putting its bytes before the example's: a feature that
    both have is the example's, because parsers take the last one.
    """
    kind = request_input.WhichOneof("kind")
    chosen = getattr(request_input, kind) if kind else None
    if chosen is None or not chosen.examples:
        raise invalid("Input is empty.")
    context = b""
    if kind == "example_list_with_context":
        context = chosen.context.SerializeToString()
    rows = np.empty(len(chosen.examples), dtype=object)
    rows[:] = [context + example.SerializeToString() for example in chosen.examples]
    return rows


def _run(
    servable: Servable,
    request_input: input_pb2.Input,
    tasks: Sequence[_Task],
    clock: RequestClock | None,
) -> None:
    """Runs the graph once for all tasks, and writes their results."""
    examples = serialized_examples(request_input)
    # A SavedModel of TensorFlow 2 has an input tensor for each signature: each is fed.
    given = {task.input: (types_pb2.DT_STRING, examples) for task in tasks}
    names = sorted({tensor for task in tasks for tensor in task.tensors.values()})
    values = servable.run(checked_feeds(servable, given), names, clock)
    by_name = dict(zip(names, values, strict=True))
    for task in tasks:
        arrays = {name: by_name[tensor] for name, tensor in task.tensors.items()}
        if task.method == CLASSIFY_METHOD:
            _write_classes(arrays, len(examples), task.result)
        else:
            _write_numbers(arrays["outputs"], len(examples), task.result)


def _write_classes(
    arrays: Mapping[str, np.ndarray], rows: int, result: classification_pb2.ClassificationResult
) -> None:
    for name, wanted in (("classes", "DT_STRING"), ("scores", "DT_FLOAT")):
        if name not in arrays:
            continue
        array, got = arrays[name], _dtype(arrays[name])
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if got != wanted:
            raise invalid(f"Expected {name} Tensor of {wanted}. Got: {got}")
        if len(array) != rows:
            raise invalid(f"Expected {name} output batch size of {rows}. Got: {len(array)}")
    widths = [array.shape[1] for array in arrays.values()]  # classes first
    if widths[0] != widths[-1]:
        raise invalid(
            f"Tensors class and score should match in dim_size(1). Got {widths[0]} vs. {widths[-1]}"
        )
    labels = arrays["classes"].tolist() if "classes" in arrays else None
    scores = arrays["scores"].tolist() if "scores" in arrays else None
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


def _write_numbers(array: np.ndarray, rows: int, result: regression_pb2.RegressionResult) -> None:
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


def _fill_spec(answer: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, servable: Servable) -> None:
    answer.name = asked.name
    answer.version.value = servable.version
    answer.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _dtype(array: np.ndarray) -> str:
    return types_pb2.DataType.Name(tf.as_dtype(array.dtype).as_datatype_enum)


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
