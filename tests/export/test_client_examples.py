"""examples/client_python.py and examples/client.sh, against a tiny model's server."""

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from export.server import RestOptions, ServedModel, Server
from export.signatures import declare
from zoo.generation.options import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
TEXT = 'def "main"(\\ \u00e9'

pytestmark = pytest.mark.timeout(120)


DEFAULTS = {name: option.default for name, option in OPTIONS.items()}
SPECS = [tf.TensorSpec.from_spec(option.spec, name) for name, option in OPTIONS.items()]


class Told(tf.Module):
    """A language model's signatures, on a model that only says what it was told."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def score(self, text):
        return {"log_likelihood": tf.cast(tf.strings.length(text), tf.float32)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text"), *SPECS])
    def generate(self, text, *options):
        words = [
            tf.strings.reduce_join(option, axis=1, separator=",")
            if option.dtype == tf.string
            else tf.strings.as_string(option, shortest=option.dtype.is_floating)
            for option in options
        ]
        return {
            "text": tf.strings.join([text, *words], " "),
            "token_count": tf.strings.length(text),
        }


def told(text, **options):
    values = {**DEFAULTS, **options}.values()
    return " ".join([text, *(",".join(v) if isinstance(v, tuple) else f"{v:g}" for v in values)])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    base, model = tmp_path_factory.mktemp("told"), Told()
    functions = {"generate": model.generate, "serving_default": model.generate}
    tf.saved_model.save(model, str(base / "1"), signatures={"score": model.score, **functions})
    defaults = {
        option: tf.constant([value], OPTIONS[option].dtype) for option, value in DEFAULTS.items()
    }
    declare(base / "1", {}, {"serving_default": "generate"}, {"generate": defaults})
    models = [ServedModel("quick", str(base))]
    with Server(models, port=0, reflection=True, rest=RestOptions(port=0)) as server:
        yield server


def run(*command, **environment):
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_python(server):
    command = [sys.executable, "-m", "examples.client_python", f"--text={TEXT}"]
    done = run(*command, f"--server=127.0.0.1:{server.port}", PYTHONIOENCODING="utf-8")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("version 1: AVAILABLE\n")
    assert "\nscore(text: string)\n" in done.stdout
    assert f"\nlikeliest: {told(TEXT, max_new_tokens=20)}\n" in done.stdout
    for seed in (1, 2, 3):
        answer = told(TEXT, max_new_tokens=20, temperature=0.8, seed=seed)
        assert f"\nseed {seed}: {answer}\n" in done.stdout
    wrong = run(*command, f"--server=127.0.0.1:{server.port}", "--model=x")
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("client_python: NOT_FOUND: ")


def documents(output):
    """The JSON documents that a script printed, each below its title."""
    parts = output.removeprefix("--- ").split("\n--- ")
    return {part.partition("\n")[0]: json.loads(part.partition("\n")[2]) for part in parts}


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server):
    rest = f"http://127.0.0.1:{server.rest_port}"
    done = run("sh", "examples/client.sh", "curl", REST=rest, TEXT=TEXT)
    assert (done.returncode, done.stderr) == (0, "")
    status, signatures, score, default, generated = documents(done.stdout).values()
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    assert "generate" in signatures["metadata"]["signature_def"]["signature_def"]
    (row,) = default["predictions"]
    assert row["text"] == told("plain text")
    texts = [TEXT, "plain text is good, too"]
    assert score["predictions"] == [len(text.encode()) for text in texts]
    stop = ("\n\n", "", "", "")
    answer = told(TEXT, max_new_tokens=20, temperature=0.8, seed=7, stop=stop)
    assert generated["outputs"]["text"] == [answer]
    wrong = run("sh", "examples/client.sh", "curl", REST=rest, MODEL="x")
    assert wrong.returncode == 22
    assert "404" in wrong.stderr


# grpcurl as far as the script uses it: it asks the server, by reflection, what its messages are.
GRPCURL = """#!{python}
import json, sys
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
arguments, options = sys.argv[1:], {{}}
while arguments[0].startswith("-"):
    name = arguments.pop(0)
    options[name] = None if name == "-plaintext" else arguments.pop(0)
address, method = arguments
assert "-plaintext" in options
channel = grpc.insecure_channel(address)
if "-protoset" in options:
    pool = descriptor_pool.DescriptorPool()
    with open(options["-protoset"], "rb") as file:
        files = descriptor_pb2.FileDescriptorSet.FromString(file.read())
    for one in files.file:
        pool.AddSerializedFile(one.SerializeToString())
    services = [f"{{one.package}}.{{s.name}}" for one in files.file for s in one.service]
else:
    database = ProtoReflectionDescriptorDatabase(channel)
    pool, services = descriptor_pool.DescriptorPool(database), database.get_services()
if method == "list":
    print(json.dumps([*services]))
    sys.exit()
service, name = method.split("/")
found = pool.FindServiceByName(service).methods_by_name[name]
request, response = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
question = json_format.Parse(options["-d"], request())
call = channel.unary_unary(f"/{{method}}", request.SerializeToString, response.FromString)
print(json_format.MessageToJson(call(question, timeout=60)))
"""


@pytest.mark.parametrize("protoset", [False, True])
def test_grpcurl(server, tmp_path, protoset):
    if shutil.which("grpcurl") is None:
        stand_in = tmp_path / "grpcurl"
        stand_in.write_text(GRPCURL.format(python=sys.executable))
        stand_in.chmod(stat.S_IRWXU)
    environment = {"PATH": f"{os.environ['PATH']}:{tmp_path}", "TEXT": TEXT}
    environment["GRPC"] = f"127.0.0.1:{server.port}"
    if protoset:
        environment["GRPCURL_FLAGS"] = "-plaintext -protoset export/client/serving.binpb"
    done = run("sh", "examples/client.sh", "grpcurl", **environment)
    assert (done.returncode, done.stderr) == (0, "")
    services, _, answers = done.stdout.partition("--- status")
    assert "tensorflow.serving.PredictionService" in services
    status, generated = documents(f"--- status{answers}").values()
    assert status["model_version_status"][0]["state"] == "AVAILABLE"
    text = base64.b64decode(generated["outputs"]["text"]["stringVal"][0])
    assert text.decode() == told(TEXT, max_new_tokens=20)
    assert {*generated["outputs"]} == {"text", "token_count"}


def test_the_script_says_how_it_is_used():
    done = run("sh", "examples/client.sh")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "usage: sh examples/client.sh curl|grpcurl\n"
