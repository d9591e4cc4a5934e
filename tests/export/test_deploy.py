"""`python -m export.deploy`: what it reads, writes and refuses, and that it runs."""

import contextlib
import dataclasses
import errno
import json
import os
import pathlib
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

import pytest
import tensorflow as tf
import yaml
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tensorflow_serving.config import model_server_config_pb2

from export.batching_file import write_batching_parameters
from export.deploy import writing
from export.deploy.deploy_error import DeployError
from export.deploy.exported_model import (
    ExportedModel,
    check_operations,
    read_exported_model,
)
from export.deploy.rendering import deployment_files
from export.deploy.sample_request import sample_body
from export.deploy.settings import Settings, name_from
from export.deploy.writing import write_files
from export.server.command import make_server
from export.server.command_flags import parse
from export.warmup_requests import ALLOWED_BATCH_SIZES

ROOT = pathlib.Path(__file__).resolve().parents[2]
BATCHED = "max_batch_size { value: 40 }\nbatch_timeout_micros { value: 500 }\n"
# Of tensorflow_model_server's flags those that the embedded server has no use for.
UNKNOWN_HERE = {"--tensorflow_intra_op_parallelism=2", "--tensorflow_inter_op_parallelism=2"}

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


@pytest.fixture(scope="module")
def batched(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "toy"
    shutil.copytree(toy / "3", folder / "3")
    (folder / "3" / "batching_params.pbtxt").write_text(BATCHED)
    return folder


def files_of(folder, **settings):
    settings = Settings(**{"name": "toy", **settings})
    return deployment_files(settings, read_exported_model(folder), folder.parent / "out")


def container(files):
    (one,) = yaml.safe_load(files["kubernetes/deployment.yaml"])["spec"]["template"]["spec"][
        "containers"
    ]
    return one


# --- What is read


def test_the_newest_version_is_read_with_its_size_and_signatures(toy):
    model = read_exported_model(toy)
    assert (model.folder, model.version, model.batching) == (toy, "3", None)
    assert set(model.signatures) >= {"serving_default", "shout"}
    assert model.size_bytes == sum(f.stat().st_size for f in toy.rglob("*") if f.is_file())


@pytest.mark.parametrize("where", ["batching_params.pbtxt", "assets.extra/batching_params.pbtxt"])
def test_batching_parameters_of_the_version_are_used(toy, tmp_path, where):
    version = tmp_path / "toy" / "12"
    shutil.copytree(toy / "3", version)
    (version / where).parent.mkdir(exist_ok=True)
    (version / where).write_text(BATCHED)
    files = files_of(tmp_path / "toy", cpu="4")
    text = files["config/batching_params.pbtxt"]
    assert "value: 40" in text and "value: 500" in text
    assert "num_batch_threads {\n  value: 4\n}" in text
    arguments = container(files)["args"]
    assert "--enable_batching=true" in arguments
    path = "/etc/tensorflow-serving/batching_params.pbtxt"
    assert f"--batching_parameters_file={path}" in arguments
    assert "--grpc_max_threads=80" in arguments  # two batches
    kserve = yaml.safe_load(files["kserve/inference_service.yaml"])
    own = (
        "--enable_per_model_batching_parameters=true"
        if where == "batching_params.pbtxt"
        else f"--batching_parameters_file=/mnt/models/12/{where}"
    )
    assert kserve["spec"]["predictor"]["model"]["args"][-2:] == ["--enable_batching=true", own]


def broken(tmp_path, toy, how):
    folder = tmp_path / "toy"
    if how == "absent":
        return folder
    (folder / "1").mkdir(parents=True)
    if how == "garbage":
        (folder / "1" / "saved_model.pb").write_bytes(b"\xff" * 40)
    elif how == "tags":
        (folder / "1" / "saved_model.pb").write_bytes(b"")
    elif how == "batching":
        shutil.copytree(toy / "3", folder / "1", dirs_exist_ok=True)
        (folder / "1" / "batching_params.pbtxt").write_text("max_batch_size { value: 0 }")
    elif how == "version":
        return toy / "3"
    return folder


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("absent", "no model version in it. Write one with `python -m export "),
        ("empty", "holds no saved_model.pb"),
        ("garbage", "is not a SavedModel: export again"),
        ("tags", "has no graph with the tag serve"),
        ("batching", "batching_params.pbtxt: max_batch_size must be positive; was 0"),
        ("version", "is one version of a model: give the folder above it, --model_dir="),
    ],
)
def test_folders_that_hold_no_model_are_refused(tmp_path, toy, how, message):
    folder = broken(tmp_path, toy, how)
    with pytest.raises(DeployError) as caught:
        read_exported_model(folder)
    assert message in str(caught.value)
    assert str(folder) in str(caught.value)


def test_a_model_that_the_release_cannot_run_is_refused(toy, tmp_path):
    assert check_operations(read_exported_model(toy), "2.19.1") == []
    with pytest.raises(
        DeployError, match=r"--serving_version=1\.0\.0: serving_version must be one"
    ):
        check_operations(read_exported_model(toy), "1.0.0")
    module = tf.Module()
    inner = tf.function(lambda x: x * 2.0, jit_compile=True)
    module.f = tf.function(inner, input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    tf.saved_model.save(module, str(tmp_path / "m" / "1"), signatures=module.f)
    with pytest.raises(DeployError) as caught:
        check_operations(read_exported_model(tmp_path / "m"), "2.19.1")
    assert f"TensorFlow Serving 2.19.1 cannot run {tmp_path}/m/1:\n" in str(caught.value)
    assert "jit_compile=True" in str(caught.value)


# --- What is chosen


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "My_Model"}, "Try --name=my-model"),
        ({"name": "1st"}, "Try --name=st"),
        ({"name": "a" * 46}, "at most 45"),
        ({"name": "模型"}, "--name=模型: Kubernetes takes lower-case letters"),
        ({"name": "a\n"}, "Try --name=a"),
        ({"serving_version": "latest"}, "--serving_version=latest: give a release"),
        ({"serving_version": "2.19.1-gpu"}, "of the CPU image"),
        ({"image": "registry/toy"}, "a repository and a tag"),
        ({"image": 'a:b"c'}, "a repository and a tag"),
        ({"storage_uri": "/models"}, "gs://bucket/folder"),
        ({"replicas": 0}, "at least one replica"),
        ({"replicas": 3, "max_replicas": 2}, "no lower maximum"),
        ({"cpu": "0"}, "--cpu=0: give a quantity above 0"),
        ({"cpu": "two"}, "--cpu=two"),
        ({"memory": "2GB"}, "--memory=2GB: give a quantity such as 2Gi"),
        ({"memory": "0Mi"}, "--memory=0Mi"),
    ],
)
def test_values_that_kubernetes_does_not_take_are_refused(wrong, message):
    with pytest.raises(DeployError) as caught:
        Settings(**{"name": "toy", **wrong})
    assert message in str(caught.value)


@given(st.text(max_size=60))
def test_a_proposed_name_is_a_valid_one(text):
    proposed = name_from(text)
    assert not proposed or Settings(proposed).name == proposed


def test_memory_and_threads_follow_the_model_and_the_cpus():
    assert Settings("toy").memory_mib(0) == 512
    assert Settings("toy").memory_mib(100 * 2**20) == 832  # 512 + 300, in steps of 64
    assert Settings("toy", memory="3Gi").memory_mib(100 * 2**20) == 3072
    assert [Settings("toy", cpu=cpu).threads for cpu in ("500m", "2", "2.5")] == [1, 2, 3]


# --- What is written

NAMES = st.from_regex(r"[a-z]([-a-z0-9]{0,8}[a-z0-9])?", fullmatch=True)
FOLDERS = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1)


@given(
    # YAML 1.1 reads some of these as something else than text.
    name=st.one_of(NAMES, st.sampled_from(["no", "y", "on", "true", "null", "e1"])),
    folder=FOLDERS.filter(lambda name: name.strip(".") and name.isprintable()),
    version=st.sampled_from(["1", "0017"]),
    image=st.sampled_from(["", "registry.example.com:5000/team/toy:1.2"]),
    uri=st.sampled_from(["", "gs://bucket/a%20b?#x"]),
    cpu=st.sampled_from(["1", "0.5", "1500m"]),
)
def test_whatever_the_names_are_they_arrive_as_text(name, folder, version, image, uri, cpu):
    model = ExportedModel(pathlib.Path("/srv", folder), version, 10, {})
    settings = Settings(name, image=image, storage_uri=uri, cpu=cpu)
    files = deployment_files(settings, model, pathlib.Path("/srv/out"))
    parsed = {path: yaml.safe_load(text) for path, text in files.items() if path.endswith(".yaml")}
    for path, document in parsed.items():
        if path != "compose.yaml":
            assert document["metadata"]["name"].startswith(name)
    service = parsed["compose.yaml"]["services"][name]
    assert service["volumes"][0]["source"].replace("$$", "$") == f"../{folder}"
    assert service["deploy"]["resources"]["limits"]["cpus"] == f"{settings.cpus:g}"
    pod = container(files)
    assert pod["image"] == (image or "tensorflow/serving:2.19.1")
    assert pod["resources"]["limits"] == pod["resources"]["requests"]
    assert pod["resources"]["limits"]["cpu"] == cpu
    kserve = parsed["kserve/inference_service.yaml"]["spec"]["predictor"]["model"]
    assert kserve["storageUri"] == (uri or f"pvc://{name}-models/{name}")
    assert f"COPY {version} /models/{name}/{version}\n" in files["Dockerfile"]
    assert ("volume/claim.yaml" in parsed) == (not image or not uri)
    models = text_format.Parse(
        parsed["kubernetes/config_map.yaml"]["data"]["models.config"],
        model_server_config_pb2.ModelServerConfig(),
    ).model_config_list.config
    assert [(one.name, one.base_path) for one in models] == [(name, f"/models/{name}")]


def test_a_path_that_no_yaml_can_hold_is_refused():
    model = ExportedModel(pathlib.Path("/srv/a\x07b"), "1", 10, {})
    with pytest.raises(DeployError, match="a path with such characters"):
        deployment_files(Settings("toy"), model, pathlib.Path("/srv/out"))


def test_the_parts_refer_to_each_other(batched):
    files = files_of(batched)
    parts = {
        path.split("/")[1]: yaml.safe_load(text)
        for path, text in files.items()
        if path.startswith(("kubernetes/", "volume/"))
    }
    template = parts["deployment.yaml"]["spec"]["template"]
    labels, pod = template["metadata"]["labels"], template["spec"]
    (server,) = pod["containers"]
    for name in ("deployment.yaml", "pod_disruption_budget.yaml"):
        assert parts[name]["spec"]["selector"]["matchLabels"] == labels
    assert parts["service.yaml"]["spec"]["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    for port in parts["service.yaml"]["spec"]["ports"]:
        assert ports[port["targetPort"]] == port["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[probe]["httpGet"]["port"] in ports
    target = parts["horizontal_pod_autoscaler.yaml"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", "toy")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in server["volumeMounts"]} == set(volumes)
    config_map = parts["config_map.yaml"]
    assert volumes["config"]["configMap"]["name"] == config_map["metadata"]["name"]
    claim = parts["claim.yaml"]["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"]["claimName"] == claim
    (upload,) = parts["upload.yaml"]["spec"]["volumes"]
    assert upload["persistentVolumeClaim"]["claimName"] == claim
    # preStop, and then time for what still runs.
    slept = int(server["lifecycle"]["preStop"]["exec"]["command"][1])
    assert slept + 30 <= pod["terminationGracePeriodSeconds"]
    # The files beside compose.yaml say the same as the ConfigMap.
    assert config_map["data"] == {
        path.removeprefix("config/"): text.rstrip() + "\n"
        for path, text in files.items()
        if path.startswith("config/")
    }


def test_a_changed_configuration_starts_new_pods(toy, batched):
    def checksum(files):
        deployment = yaml.safe_load(files["kubernetes/deployment.yaml"])
        return deployment["spec"]["template"]["metadata"]["annotations"]["checksum/config"]

    assert checksum(files_of(toy)) == checksum(files_of(toy, cpu="2", replicas=5))
    assert checksum(files_of(toy)) != checksum(files_of(batched))


def test_an_image_with_the_model_needs_no_volume(toy):
    files = files_of(toy, image="registry.example.com/toy:3", storage_uri="gs://b/toy")
    assert not [path for path in files if path.startswith("volume/")]
    assert "--file_system_poll_wait_seconds=0" in container(files)["args"]
    assert {mount["name"] for mount in container(files)["volumeMounts"]} == {"config", "tmp"}
    compose = yaml.safe_load(files["compose.yaml"])["services"]["toy"]
    assert "--file_system_poll_wait_seconds=10" in compose["command"]  # the folder is mounted
    assert "docker push registry.example.com/toy:3" in files["README.md"]


def test_the_committed_example_is_what_the_command_makes(toy, tmp_path):
    """After a change: python -m export.deploy with the same flags, --out=deploy and --overwrite."""
    folder = tmp_path / "served" / "polarity"
    shutil.copytree(toy / "3", folder / "1")
    write_batching_parameters(folder / "1", ALLOWED_BATCH_SIZES)
    model = read_exported_model(folder)
    model = dataclasses.replace(model, signatures={"serving_default": model.signatures["shout"]})
    settings = Settings("polarity", cpu="2", memory="1Gi")
    files = deployment_files(settings, model, tmp_path / "deploy")
    committed = ROOT / "deploy"
    assert files == contents(committed)


# --- Where it is written


def contents(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()
    }


def test_a_folder_is_written_whole_and_readable_by_others(tmp_path):
    out = tmp_path / "new" / "out"
    before = os.umask(0o077)
    try:
        write_files({"a.yaml": "a", "b/c.yaml": "c"}, out)
    finally:
        os.umask(before)
    assert contents(tmp_path) == {"new/out/a.yaml": "a", "new/out/b/c.yaml": "c"}
    modes = {path.stat().st_mode & 0o777 for path in (out, out / "b")}
    assert (modes, (out / "b" / "c.yaml").stat().st_mode & 0o777) == ({0o755}, 0o644)


def test_a_folder_that_is_there_is_kept_unless_told_otherwise(tmp_path):
    out = tmp_path / "out"
    before = {"a.yaml": "old", "mine.txt": "mine", "volume/claim.yaml": "old"}
    write_files(before, out)
    with pytest.raises(DeployError, match="exists: choose another --out, or give --overwrite"):
        write_files({"a.yaml": "new"}, out)
    assert contents(out) == before
    write_files({"a.yaml": "new"}, out, overwrite=True)
    assert contents(out) == {"a.yaml": "new", "mine.txt": "mine"}
    assert not (out / "volume").exists()
    with pytest.raises(DeployError, match="is not a folder"):
        write_files({"a.yaml": "new"}, out / "a.yaml", overwrite=True)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(writing.os, "rename", full)
    with pytest.raises(DeployError, match=f"cannot write {tmp_path}/out: No space left"):
        write_files({"a.yaml": "a"}, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeployError, match=r"cannot write .*/file/out: "):
        write_files({"a.yaml": "a"}, tmp_path / "file" / "out")


# --- The command


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "export.deploy", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_the_command_writes_and_says_what_to_run(batched, tmp_path):
    out = tmp_path / "out"
    result = run(f"--model_dir={batched}", f"--out={out}", "--replicas=3", "--memory=700Mi")
    assert result.returncode == 0, result.stderr
    assert f"wrote {out}: toy version 3 on 2.19.1" in result.stdout
    assert f"cd {out} && docker compose up" in result.stdout
    scaler = yaml.safe_load((out / "kubernetes/horizontal_pod_autoscaler.yaml").read_text())
    assert (scaler["spec"]["minReplicas"], scaler["spec"]["maxReplicas"]) == (3, 6)
    model = os.path.join(
        out,
        yaml.safe_load((out / "compose.yaml").read_text())["services"]["toy"]["volumes"][0][
            "source"
        ],
    )
    assert os.path.samefile(model, batched)
    again = run(f"--model_dir={batched}", f"--out={out}")
    assert again.returncode == 1
    assert f"export.deploy: {out} exists" in again.stderr


def test_the_command_refuses_in_one_line(tmp_path):
    result = run(f"--model_dir={tmp_path}", f"--out={tmp_path / 'out'}", "--name=Not_A_Label")
    assert result.returncode == 1
    assert "Try --name=not-a-label" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


# --- The flags, the configuration and the probes, on the embedded server


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
    assert set(unknown) == UNKNOWN_HERE
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


def configuration(files, folder, models):
    """The ConfigMap as its volume shows it, with the folder of models where it is here."""
    folder.mkdir()
    for name, text in yaml.safe_load(files["kubernetes/config_map.yaml"])["data"].items():
        (folder / name).write_text(text.replace('"/models/', f'"{models}/'))
    return {"/etc/tensorflow-serving": str(folder)}


def probes(pod):
    """Path of each probe; all ask the port that is named."""
    found = {probe: pod[probe]["httpGet"] for probe in pod if probe.endswith("Probe")}
    assert {get["port"] for get in found.values()} == {"rest"}
    return {name: get["path"] for name, get in found.items()}


@pytest.mark.parametrize("kind", ["toy", "batched"])
def test_the_deployment_runs_answers_and_is_probed(kind, tmp_path, request):
    folder = request.getfixturevalue(kind)
    files = files_of(folder)
    pod = container(files)
    body = sample_body(read_exported_model(folder).signatures)
    assert shlex.quote(json.dumps(body)) in files["README.md"]
    places = configuration(files, tmp_path / "config", folder.parent)
    metrics = yaml.safe_load(files["kubernetes/deployment.yaml"])["spec"]["template"]["metadata"]
    with started(pod["args"], places) as (grpc_port, rest_port):
        for path in probes(pod).values():
            assert get(rest_port, path)[0] == 200
        answer = get(rest_port, "/v1/models/toy:predict", json.dumps(body).encode())
        assert answer == (200, {"predictions": ["A text. x 1"]})
        path = metrics["annotations"]["prometheus.io/path"]
        with urllib.request.urlopen(f"http://127.0.0.1:{rest_port}{path}") as page:
            assert b"request_count" in page.read()
        result = subprocess.run(
            [sys.executable, "-m", "export.client", f"--server=127.0.0.1:{grpc_port}"]
            + ["--model=toy", "--signature=shout", "--text=A text."],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert "A TEXT." in result.stdout, result.stderr


def test_a_pod_is_ready_while_it_has_a_version_and_lives_on_without(toy, tmp_path):
    models = tmp_path / "models"
    (models / "toy").mkdir(parents=True)
    files = files_of(toy)
    pod = container(files)
    paths = probes(pod)
    assert paths["startupProbe"] == paths["readinessProbe"]
    places = configuration(files, tmp_path / "config", models)
    compose = yaml.safe_load(files["compose.yaml"])["services"]["toy"]
    kind, *check = compose["healthcheck"]["test"]
    assert kind == "CMD"

    def healthy(port):
        here = [word.replace("8501", str(port)) for word in check]
        return subprocess.run(here, capture_output=True).returncode == 0

    def wait_for(answered, wanted):
        end = time.monotonic() + 60
        while answered() != wanted:
            assert time.monotonic() < end, (answered(), wanted)
            time.sleep(0.05)

    quick = [*pod["args"], "--file_system_poll_wait_seconds=0.1"]
    with started(quick, places, wait=False) as (_, port):
        # No model yet: nothing listens, so no probe can be mistaken.
        assert get(port, paths["readinessProbe"])[0] is ConnectionRefusedError
        assert not healthy(port)
        shutil.copytree(toy / "3", models / "toy" / ".partial")
        os.rename(models / "toy" / ".partial", models / "toy" / "1")
        wait_for(lambda: get(port, paths["readinessProbe"])[0], 200)
        assert get(port, paths["livenessProbe"])[0] == 200
        assert healthy(port)
        shutil.rmtree(models / "toy" / "1")
        wait_for(lambda: get(port, paths["readinessProbe"])[0], 404)

        def alive():
            code, status = get(port, paths["livenessProbe"])
            return code, status["model_version_status"][0]["state"]

        wait_for(alive, (200, "END"))  # after a moment of UNLOADING
        assert not healthy(port)


def test_compose_runs(batched, tmp_path):
    files = files_of(batched)
    write_files(files, tmp_path / "out")
    service = yaml.safe_load(files["compose.yaml"])["services"]["toy"]
    mounts = {mount["target"]: mount["source"] for mount in service["volumes"]}
    assert mounts == {"/models/toy": "../toy", "/etc/tensorflow-serving": "./config"}
    config = tmp_path / "out" / "config" / "models.config"
    config.write_text(config.read_text().replace("/models/toy", str(batched)))
    places = {"/etc/tensorflow-serving": str(tmp_path / "out" / "config")}
    with started(service["command"], places) as (_, port):
        assert get(port, "/v1/models/toy/metadata")[0] == 200


def test_kserve_runs(batched):
    """The flags of KServe's TensorFlow runtime (config/runtimes of kserve), and ours after them."""
    spec = yaml.safe_load(files_of(batched)["kserve/inference_service.yaml"])
    runtime = [
        f"--model_name={spec['metadata']['name']}",
        "--port=9000",
        "--rest_api_port=8080",
        "--model_base_path=/mnt/models",
        "--rest_api_timeout_in_ms=60000",
    ]
    arguments = runtime + spec["spec"]["predictor"]["model"]["args"]
    with started(arguments, {"/mnt/models": str(batched)}) as (_, port):
        answer = get(
            port,
            "/v1/models/toy:predict",
            b'{"signature_name": "shout", "instances": ["a", "b"]}',
        )
        assert answer == (200, {"predictions": ["A", "B"]})
