"""The client neither imports TensorFlow nor minds it, and knows its messages."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf
from absl import flags
from google.protobuf import descriptor_pb2
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2

from export.client import __main__ as client_command
from export.client import messages
from export.server import ServedModel, Server
from tools.client_descriptors import describe, main

ROOT = Path(__file__).resolve().parents[2]
# Packages that take seconds to import, or that a machine that only asks has no use for.
HEAVY = ("tensorflow", "tensorflow_serving", "tensorflow_text", "keras", "trainers")

pytestmark = pytest.mark.timeout(120)


class Shout(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def shout(self, text):
        return {"text": tf.strings.upper(text)}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    base, shout = tmp_path_factory.mktemp("shout"), Shout()
    tf.saved_model.save(shout, str(base / "1"), signatures=shout.shout)
    with Server([ServedModel("m", str(base))], port=0, host="localhost") as server:
        yield f"localhost:{server.port}"


def run_python(code, *arguments):
    """What a fresh Python prints when it runs this."""
    command = [sys.executable, "-c", code, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, env=environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout


def test_no_module_of_the_client_imports_anything_heavy():
    for path in (ROOT / "export" / "client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [getattr(node, "module", None) or ""]
            names += [alias.name for alias in getattr(node, "names", []) if hasattr(alias, "name")]
            assert not {name.split(".")[0] for name in names} & {*HEAVY}, path


def test_questions_are_asked_where_tensorflow_is_not_installed(address):
    """By the class and by the command, and the common pool of messages is left alone: TensorFlow
    puts files of the same names there, which would clash with others.
    """
    code = f"""
import runpy, sys
for name in {HEAVY}:
    sys.modules[name] = None  # an import of it raises ImportError
from export.client import Client
from export.client.messages import POOL
from google.protobuf import descriptor_pool
with Client(sys.argv[1].removeprefix("--server=")) as client:
    print(client.predict("m", {{"text": ["abc"]}}).outputs["text"][0].decode())
    client.signatures("m"), client.status("m")
for name in ("tensorflow/core/framework/tensor.proto", "tensorflow_serving/apis/predict.proto"):
    assert POOL.FindFileByName(name).message_types_by_name
    try:
        descriptor_pool.Default().FindFileByName(name)
    except KeyError:
        print("unknown")
runpy.run_module("export.client", run_name="__main__", alter_sys=True)
"""
    shown = run_python(code, f"--server={address}", "--model=m", "--text=def")
    assert shown == "ABC\nunknown\nunknown\nDEF\n"


def test_help_names_the_flags():
    values = flags.FlagValues()
    client_command.define_flags(values)
    shown = values.get_help()
    for flag in ("server", "model", "signature", "text", "set", "timeout", "[no]json", "ca_file"):
        assert f"\n  --{flag}:" in shown


@pytest.mark.slow
def test_tensorflow_may_be_imported_afterwards():
    """Before, it was: this process has it."""
    code = """
from export.client.messages import METHODS
request = METHODS["Predict"].request()
request.inputs["x"].string_val.append(b"a")
from tensorflow_serving.apis import predict_pb2
import tensorflow as tf
theirs = predict_pb2.PredictRequest.FromString(request.SerializeToString())
print(tf.make_ndarray(tf.make_tensor_proto(3)), theirs.inputs["x"].string_val[0])
"""
    assert run_python(code) == "3 b'a'\n"


def test_messages_are_told_apart_from_tensorflows_of_the_same_names():
    ours = messages.METHODS["Predict"].request
    assert ours.DESCRIPTOR.full_name == predict_pb2.PredictRequest.DESCRIPTOR.full_name
    assert ours is not predict_pb2.PredictRequest
    # Their names matter: an Any says by name what is in it.
    theirs = get_model_metadata_pb2.GetModelMetadataResponse()
    theirs.metadata["signature_def"].Pack(get_model_metadata_pb2.SignatureDefMap())
    response = messages.METHODS["GetModelMetadata"].response.FromString(theirs.SerializeToString())
    assert response.metadata["signature_def"].Unpack(messages.SignatureDefMap())


def test_the_file_is_what_the_installed_packages_say(tmp_path, monkeypatch):
    written = descriptor_pb2.FileDescriptorSet.FromString(messages.DESCRIPTORS_FILE.read_bytes())
    assert written == describe(), "run: python -m tools.client_descriptors"
    monkeypatch.setattr("tools.client_descriptors._FILE", tmp_path / "serving.binpb")
    main()
    assert (tmp_path / "serving.binpb").read_bytes() == messages.DESCRIPTORS_FILE.read_bytes()
