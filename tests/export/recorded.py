"""What was recorded from TensorFlow Serving itself, where this machine has it."""

import json
import os
import pathlib
import re
import shutil

import numpy as np
import tensorflow as tf
from google.protobuf.message_factory import GetMessageClass
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import model_service_pb2, prediction_service_pb2

_ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDED = pathlib.Path(os.environ.get("ZOO_SERVING", _ROOT.parent / "shared" / "serving"))
MODELS = str(RECORDED / "models")
# gRPC method -> the classes of its request and its response.
MESSAGES = {
    method.name: (GetMessageClass(method.input_type), GetMessageClass(method.output_type))
    for file in (prediction_service_pb2, model_service_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def lines(name: str) -> list[dict]:
    """The lines of a file of JSON lines; none where it is not there."""
    file = RECORDED / name
    text = file.read_text().replace("{MODELS}", MODELS) if file.exists() else ""
    return [json.loads(line) for line in text.splitlines()]


def alike(text: str, other: str) -> bool:
    """Whether texts are equal but for the last bits of float32 numbers.

    The exponentials of model `ex` differ with the CPU: those with AVX-512 have other kernels.
    """
    number = r"-?\d+\.\d+(?:e[+-]?\d+)?"
    if re.sub(number, "?", text) != re.sub(number, "?", other):
        return False
    values = (np.array(re.findall(number, one), float) for one in (text, other))
    return np.allclose(*values, rtol=5e-7, atol=0)


def write_model_with_default(folder: pathlib.Path) -> None:
    """The recorded model whose signature `two` has a default for z."""
    version = shutil.copytree(RECORDED / "models/half_plus_two/1", folder / "1")
    for path in (version, *version.rglob("*")):
        path.chmod(0o755)
    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    two = saved.meta_graphs[0].signature_def["two"]
    two.defaults["z"].CopyFrom(tf.make_tensor_proto([10.0]))
    (version / "saved_model.pb").write_bytes(saved.SerializeToString())
