"""Classify, Regress and MultiInference: tf.Examples in, class scores and numbers out.

As in `inference`, the rules and the wording of the errors are TensorFlow Serving's. It looks at
what a signature has, not at its method name, and so does this module.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import grpc
import numpy as np
import tensorflow as tf
from google.protobuf import text_format
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    model_pb2,
    regression_pb2,
)

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.server.api.examples import serialized_examples
from export.server.api.inference import (
    DEFAULT_SIGNATURE,
    acquire,
    acquire_spec,
    checked_feeds,
    invalid,
)
from export.server.run.servable import Servable, ServingError

if TYPE_CHECKING:
    from export.server.models.manager import Manager


def classify(
    manager: "Manager", request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers Classify.

    Raises:
        ServingError: with the code and message of TensorFlow Serving for the same request.
    """
    with acquire(manager, request) as servable:
        return classify_on(servable, request)


def regress(
    manager: "Manager", request: regression_pb2.RegressionRequest
) -> regression_pb2.RegressionResponse:
    """Answers Regress; raises as `classify` does."""
    with acquire(manager, request) as servable:
        return regress_on(servable, request)


def multi_inference(
    manager: "Manager", request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers MultiInference, several signatures on one input; raises as `classify` does."""
    spec = request.tasks[0].model_spec if request.tasks else model_pb2.ModelSpec()
    with acquire_spec(manager, spec) as servable:
        return multi_inference_on(servable, request)


def classify_on(
    servable: Servable, request: classification_pb2.ClassificationRequest
) -> classification_pb2.ClassificationResponse:
    """Answers Classify on a servable at hand, whatever model the request names."""
    signature = _signature(servable, request.model_spec)
    tensors = _classify_tensors(signature)
    examples, values = _run(servable, request.input, {_input(signature)}, {*tensors.values()})
    response = classification_pb2.ClassificationResponse()
    _write_classes(tensors, values, len(examples), response.result)
    _answer_spec(response.model_spec, request.model_spec, servable)
    return response


def regress_on(
    servable: Servable, request: regression_pb2.RegressionRequest
) -> regression_pb2.RegressionResponse:
    """Answers Regress on a servable at hand, whatever model the request names."""
    signature = _signature(servable, request.model_spec)
    tensor = _regress_tensor(signature)
    examples, values = _run(servable, request.input, {_input(signature)}, {tensor})
    response = regression_pb2.RegressionResponse()
    _write_numbers(values[tensor], len(examples), response.result)
    _answer_spec(response.model_spec, request.model_spec, servable)
    return response


def multi_inference_on(
    servable: Servable, request: inference_pb2.MultiInferenceRequest
) -> inference_pb2.MultiInferenceResponse:
    """Answers MultiInference on a servable at hand: one run of the graph for all tasks."""
    inputs, fetches, plans, seen = set(), set(), [], set()
    for task in request.tasks:
        spec = task.model_spec
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
        if task.method_name == CLASSIFY_METHOD:
            tensors = _classify_tensors(signature)
            fetches.update(tensors.values())
        elif task.method_name == REGRESS_METHOD:
            tensors = _regress_tensor(signature)
            fetches.add(tensors)
        else:
            raise ServingError(
                grpc.StatusCode.UNIMPLEMENTED,
                f"Unsupported signature method_name: {task.method_name}",
            )
        inputs.add(_input(signature))
        plans.append((spec, tensors))
    examples, values = _run(servable, request.input, inputs, fetches)
    response = inference_pb2.MultiInferenceResponse()
    for spec, tensors in plans:
        result = response.results.add()
        if isinstance(tensors, dict):
            _write_classes(tensors, values, len(examples), result.classification_result)
        else:
            _write_numbers(values[tensors], len(examples), result.regression_result)
        _answer_spec(result.model_spec, spec, servable)
    return response


def _signature(servable: Servable, spec: model_pb2.ModelSpec) -> meta_graph_pb2.SignatureDef:
    name = spec.signature_name or DEFAULT_SIGNATURE
    if name not in servable.signatures:
        raise invalid(f"No signature was found with the name: {name}")
    return servable.signatures[name]


def _classify_tensors(signature: meta_graph_pb2.SignatureDef) -> dict[str, str]:
    """Which tensors hold `classes` and `scores`, once the signature is found fit to classify."""
    _require_one_input(signature)
    if len(signature.outputs) not in (1, 2):
        raise invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if "inputs" not in signature.inputs:
        raise invalid(f"No classification inputs found in SignatureDef: {_printed(signature)}")
    found = {
        name: signature.outputs[name].name
        for name in ("classes", "scores")
        if name in signature.outputs
    }
    if not found:
        raise invalid(
            'Expected classification signature outputs to contain at least one of "classes" or '
            f'"scores". Signature was: {_printed(signature)}'
        )
    return found


def _regress_tensor(signature: meta_graph_pb2.SignatureDef) -> str:
    """Which tensor holds `outputs`, once the signature is found fit to regress."""
    _require_one_input(signature)
    if len(signature.outputs) != 1:
        raise invalid("Expected one output Tensor.")
    if "inputs" not in signature.inputs:
        raise invalid(f"No regression inputs found in SignatureDef: {_printed(signature)}")
    if "outputs" not in signature.outputs:
        raise invalid(f"No regression outputs found in SignatureDef: {_printed(signature)}")
    return signature.outputs["outputs"].name


def _require_one_input(signature: meta_graph_pb2.SignatureDef) -> None:
    if len(signature.inputs) != 1:
        raise invalid("Expected one input Tensor.")


def _printed(signature: meta_graph_pb2.SignatureDef) -> str:
    return text_format.MessageToString(signature)  # str() would leave the maps in any order


def _input(signature: meta_graph_pb2.SignatureDef) -> str:
    return signature.inputs["inputs"].name


def _run(
    servable: Servable, request_input, inputs: set[str], fetches: set[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The examples, and the value of each tensor in `fetches` when every input reads them."""
    examples = serialized_examples(request_input)
    # A SavedModel of TensorFlow 2 has an input tensor for each signature: each is fed.
    given = dict.fromkeys(inputs, (types_pb2.DT_STRING, examples))
    names = sorted(fetches)
    values = servable.run(checked_feeds(servable, given), names)
    return examples, dict(zip(names, values, strict=True))


def _write_classes(
    tensors: Mapping[str, str],
    values: Mapping[str, np.ndarray],
    rows: int,
    result: classification_pb2.ClassificationResult,
) -> None:
    arrays = {name: values[tensor] for name, tensor in tensors.items()}
    for name, wanted in (("classes", types_pb2.DT_STRING), ("scores", types_pb2.DT_FLOAT)):
        if name not in arrays:
            continue
        array, got = arrays[name], _data_type(arrays[name])
        if array.ndim != 2:
            raise invalid(
                f"Expected Tensor shape: [batch_size num_classes] but got {_shape(array)}"
            )
        if got != wanted:
            raise invalid(f"Expected {name} Tensor of {_type_name(wanted)}. Got: {_type_name(got)}")
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
    if _data_type(array) != types_pb2.DT_FLOAT:
        got = _type_name(_data_type(array))
        raise invalid(f"Expected output Tensor of DT_FLOAT.  Got: {got}")
    for value in array.ravel().tolist():
        result.regressions.add(value=value)


def _answer_spec(
    answer: model_pb2.ModelSpec, asked: model_pb2.ModelSpec, servable: Servable
) -> None:
    answer.name = asked.name
    answer.version.value = servable.version
    answer.signature_name = asked.signature_name or DEFAULT_SIGNATURE


def _data_type(array: np.ndarray) -> int:
    return tf.as_dtype(array.dtype).as_datatype_enum


def _type_name(data_type: int) -> str:
    return types_pb2.DataType.Name(data_type)


def _shape(array: np.ndarray) -> str:
    return f"[{','.join(map(str, array.shape))}]"
