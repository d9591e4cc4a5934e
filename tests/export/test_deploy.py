"""The files in deploy/: their parts fit together, and their flags and probes work on our server."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import string
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format

from export.server.config_files import BatchingParametersProto
from export.server.flags import parse
from export.server.program import make_server

DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"

pytestmark = pytest.mark.timeout(120)


class Toy(tf.Module):
    """Repeats texts."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.string, "text"),
            tf.TensorSpec([None], tf.int32, "times"),
        ]
    )
    def repeat(self, text, times):
        joined = tf.strings.join([text, tf.strings.as_string(times)], " x ")
        return {"text": tf.identity(joined)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "text")])
    def shout(self, text):
        return {"text": tf.strings.upper(text)}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A model folder with version 3, and what no server looks at."""
    folder = tmp_path_factory.mktemp("served") / "toy"
    module = Toy()
    signatures = {"serving_default": module.repeat, "shout": module.shout}
    tf.saved_model.save(module, str(folder / "3"), signatures=signatures)
    (folder / ".partial-4-x").mkdir()
    return folder


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def compose_service(**changed):
    """The service of compose.yaml with the variables of .env, as Compose fills them in."""
    lines = (DEPLOY / ".env").read_text().splitlines()
    variables = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    text = string.Template((DEPLOY / "compose.yaml").read_text()).substitute(variables | changed)
    return yaml.safe_load(text)["services"]["model"]


def pod():
    return read("kubernetes/deployment.yaml")["spec"]["template"]["spec"]


def arguments_of(container, name):
    """Its command line, with the variable filled in as Kubernetes does."""
    return [argument.replace("$(MODEL_NAME)", name) for argument in container["args"]]


def free_ports():
    with socket.socket() as one, socket.socket() as other:
        one.bind(("127.0.0.1", 0))
        other.bind(("127.0.0.1", 0))
        return one.getsockname()[1], other.getsockname()[1]


def get(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", body)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())
    except urllib.error.URLError as error:
        return type(error.reason), None


@contextlib.contextmanager
def started(arguments, places, wait=True):
    """The embedded server with these arguments, but for ports and folders; (gRPC, REST) ports."""
    grpc_port, rest_port = free_ports()
    for real, local in {
        "--port=8500": f"--port={grpc_port}",
        "--port=9000": f"--port={grpc_port}",
        "--rest_api_port=8501": f"--rest_api_port={rest_port}",
        "--rest_api_port=8080": f"--rest_api_port={rest_port}",
        **places,
    }.items():
        arguments = [argument.replace(real, local) for argument in arguments]
    values, unknown = parse(["server", *arguments])
    assert not unknown
    server, cancelled = make_server(values), threading.Event()
    starting = threading.Thread(target=server.start, args=(cancelled,))
    starting.start()
    try:
        if wait:
            starting.join()
        yield grpc_port, rest_port
    finally:
        cancelled.set()
        starting.join()
        assert server.stop(grace=10)


def passes(command, port):
    """Whether a probe's command succeeds where the REST port is this one."""
    here = [word.replace("8501", str(port)) for word in command]
    return subprocess.run(here, capture_output=True, env=os.environ | {"MODEL_NAME": "toy"})


def places(models):
    return {
        "--model_base_path=/models": f"--model_base_path={models}",
        "/etc/tensorflow-serving": str(DEPLOY / "config"),
    }


def test_the_parts_refer_to_each_other():
    parts = {path.stem: yaml.safe_load(path.read_text()) for path in DEPLOY.rglob("*.yaml")}
    template = parts["deployment"]["spec"]["template"]
    labels, spec = template["metadata"]["labels"], template["spec"]
    (server,) = spec["containers"]
    for name in ("deployment", "pod_disruption_budget"):
        assert parts[name]["spec"]["selector"]["matchLabels"] == labels
    assert parts["service"]["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    for port in parts["service"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    target = parts["horizontal_pod_autoscaler"]["spec"]["scaleTargetRef"]
    named = parts["deployment"]["kind"], parts["deployment"]["metadata"]["name"]
    assert (target["kind"], target["name"]) == named
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} == set(volumes)
    kustomization = parts["kustomization"]
    generated = {maker["name"] for maker in kustomization["configMapGenerator"]}
    (variable,) = server["env"]
    assert volumes["config"]["configMap"]["name"] in generated
    assert variable["valueFrom"]["configMapKeyRef"]["name"] in generated
    for maker in kustomization["configMapGenerator"]:
        for name in maker.get("files", []) + maker.get("envs", []):
            assert (DEPLOY / "kubernetes" / name).is_file()
    claim = parts["claim"]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    (upload,) = parts["upload"]["spec"]["volumes"]
    prefixed = kustomization["namePrefix"] + claim
    assert upload["persistentVolumeClaim"]["claimName"] == prefixed
    assert parts["inference_service"]["spec"]["predictor"]["model"]["storageUri"].startswith(
        f"pvc://{prefixed}/"
    )
    # preStop, and then time for what still runs.
    slept = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert slept + 30 <= spec["terminationGracePeriodSeconds"]


def test_what_stands_twice_is_the_same():
    for path in (DEPLOY / "config").iterdir():
        assert (DEPLOY / "kubernetes" / path.name).read_text() == path.read_text()
    service = compose_service()
    release = service["image"].split(":")[1]
    (image,) = read("kubernetes/kustomization.yaml")["images"]
    model = read("kserve/inference_service.yaml")["spec"]["predictor"]["model"]
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    assert image["newTag"] == model["runtimeVersion"] == release
    assert f"ARG SERVING_VERSION={release}\n" in dockerfile
    (server,) = pod()["containers"]
    assert set(service["command"]) <= set(arguments_of(server, "polarity"))
    threads = {re.sub(r"\D", "", flag) for flag in server["args"] if "op_parallelism" in flag}
    assert threads == {server["resources"]["limits"]["cpu"]}


def test_batches_have_the_sizes_that_an_export_is_warmed_up_at():
    folders = (DEPLOY / "config", DEPLOY.parent / "export")
    texts = [(folder / "batching_params.pbtxt").read_text() for folder in folders]
    ours, exported = (text_format.Parse(text, BatchingParametersProto()) for text in texts)
    assert ours.allowed_batch_sizes == exported.allowed_batch_sizes
    assert ours.max_batch_size.value == exported.allowed_batch_sizes[-1]


def test_a_pod_is_ready_while_it_has_a_version_and_lives_on_without(toy, tmp_path):
    models = tmp_path / "models"
    (models / "toy").mkdir(parents=True)
    (server,) = pod()["containers"]
    probes = {name: server[name]["exec"]["command"] for name in server if name.endswith("Probe")}
    assert probes["startupProbe"] == probes["readinessProbe"]
    kind, *check = compose_service()["healthcheck"]["test"]
    assert kind == "CMD"
    metrics = read("kubernetes/deployment.yaml")["spec"]["template"]["metadata"]["annotations"]

    def wait_for(answered, wanted):
        end = time.monotonic() + 60
        while answered() != wanted:
            assert time.monotonic() < end, (answered(), wanted)
            time.sleep(0.05)

    def answers(port):
        """What the probes say: ready, alive, and Compose's health check."""
        commands = probes["readinessProbe"], probes["livenessProbe"], check
        return tuple(passes(command, port).returncode == 0 for command in commands)

    quick = [*arguments_of(server, "toy"), "--file_system_poll_wait_seconds=0.1"]
    with started(quick, places(models), wait=False) as (_, port):
        assert answers(port) == (False, False, False)  # nothing listens before a model is loaded
        shutil.copytree(toy / "3", models / "toy" / ".partial")
        os.rename(models / "toy" / ".partial", models / "toy" / "1")
        wait_for(lambda: answers(port), (True, True, True))
        body = b'{"signature_name": "shout", "instances": ["a", "b"]}'
        answer = get(port, "/v1/models/toy:predict", body)
        assert answer == (200, {"predictions": ["A", "B"]})
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}{metrics['prometheus.io/path']}"
        ) as page:
            assert b"request_count" in page.read()
        shutil.rmtree(models / "toy" / "1")
        wait_for(lambda: answers(port), (False, True, False))


def test_compose_runs(toy):
    service = compose_service(MODEL_NAME="toy", MODEL_DIR="../served/toy")
    mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
    assert mounts == {"/models/toy": "../served/toy", "/etc/tensorflow-serving": "./config"}
    with started(service["command"], places(toy.parent)) as (_, port):
        assert get(port, "/v1/models/toy/metadata")[0] == 200


def test_kserve_runs(toy, tmp_path):
    """The flags of KServe's TensorFlow runtime (config/runtimes of kserve), and ours after them."""
    shutil.copytree(toy / "3", tmp_path / "3")
    shutil.copy(DEPLOY / "config" / "batching_params.pbtxt", tmp_path / "3")
    spec = read("kserve/inference_service.yaml")
    name = spec["metadata"]["name"]
    runtime = [
        f"--model_name={name}",
        "--port=9000",
        "--rest_api_port=8080",
        "--model_base_path=/mnt/models",
        "--rest_api_timeout_in_ms=60000",
    ]
    arguments = runtime + spec["spec"]["predictor"]["model"]["args"]
    with started(arguments, {"/mnt/models": str(tmp_path)}) as (_, port):
        body = b'{"signature_name": "shout", "instances": ["a", "b"]}'
        answer = get(port, f"/v1/models/{name}:predict", body)
        assert answer == (200, {"predictions": ["A", "B"]})
