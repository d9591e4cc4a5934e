"""What the embedded server lets in: TLS, addresses, sockets, limits; and health and reflection."""

import contextlib
import pathlib
import socket
import threading
import urllib.request

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from export.server import RestOptions, ServedModel, Server, ServingError, specific
from export.server.config_files import read_credentials

CERTIFICATES = pathlib.Path(__file__).parent / "certificates"

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def model(versions):
    return ServedModel("m", str(versions), specific([1]))


def pem(name: str) -> bytes:
    return (CERTIFICATES / name).read_bytes()


def ssl_config(folder: pathlib.Path, **fields) -> str:
    given = {"server_key": pem("server.key"), "server_cert": pem("server.pem"), **fields}
    lines = []
    for name, value in given.items():
        text = str(value).lower() if isinstance(value, bool) else repr(value.decode())
        lines.append(f"{name}: {text}")
    file = folder / "ssl.config"
    file.write_text("\n".join(lines))
    return str(file)


def channel(port: int, client: str = "", authority: bytes | None = None):
    credentials = grpc.ssl_channel_credentials(
        authority or pem("ca.pem"),
        pem(f"{client}.key") if client else None,
        pem(f"{client}.pem") if client else None,
    )
    return grpc.secure_channel(f"localhost:{port}", credentials)


def predict(opened: grpc.Channel, size=1, metadata=None):
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.zeros([size], np.float32)))
    stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
    with contextlib.closing(opened):
        return stub.Predict(request, timeout=20, metadata=metadata).outputs["y"].float_val[0]


def refused(*args, **kwargs):
    with pytest.raises(grpc.RpcError) as caught:
        predict(*args, **kwargs)
    return caught.value.code().name, caught.value.details()


def test_tls(model, tmp_path):
    credentials = read_credentials(ssl_config(tmp_path))
    with Server([model], port=0, credentials=credentials) as server:
        assert predict(channel(server.port)) == 1
        assert refused(grpc.insecure_channel(f"localhost:{server.port}"))[0] == "UNAVAILABLE"
        stranger = channel(server.port, authority=pem("stranger.pem"))
        assert refused(stranger)[0] == "UNAVAILABLE"


def test_mutual_tls_refuses_who_has_no_certificate_of_its_authority(model, tmp_path):
    config = ssl_config(tmp_path, custom_ca=pem("ca.pem"), client_verify=True)
    with Server([model], port=0, credentials=read_credentials(config)) as server:
        assert predict(channel(server.port, "client")) == 1
        assert refused(channel(server.port))[0] == "UNAVAILABLE"
        assert refused(channel(server.port, "stranger"))[0] == "UNAVAILABLE"
        assert predict(channel(server.port, "client")) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"server_key": b"/etc/key.pem"}, "server_key must be PEM text"),
        ({"server_cert": b""}, "server_cert must be PEM text"),
        ({"custom_ca": b"/etc/ca.pem"}, "custom_ca must be PEM text"),
        ({"client_verify": True}, "client_verify needs custom_ca"),
    ],
)
def test_wrong_ssl_config_is_refused(tmp_path, fields, message):
    with pytest.raises(ServingError, match=message) as caught:
        read_credentials(ssl_config(tmp_path, **fields))
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_key_of_another_certificate_is_refused(model, tmp_path):
    config = ssl_config(tmp_path, server_key=pem("client.key"))
    with pytest.raises(OSError, match="certificate does not fit the key"):
        Server([model], port=0, credentials=read_credentials(config)).start()


# --- where it listens


def test_loopback_is_the_default(model):
    with Server([model], port=0, rest=RestOptions(port=0)) as server:
        # Any other address of this machine, 127.0.0.2 too, would answer a server on 0.0.0.0.
        for port in (server.port, server.rest_port):
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.2", port), timeout=5)


def test_socket_path(model, tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # left behind by a server that was killed
    with Server([model], port=0, socket_path=str(path)) as server:
        assert predict(grpc.insecure_channel(f"unix:{path}")) == 1
        assert predict(grpc.insecure_channel(f"localhost:{server.port}")) == 1
        # As TensorFlow Serving: the next server takes the path over.
        with Server([model], port=0, socket_path=str(path)):
            assert predict(grpc.insecure_channel(f"unix:{path}")) == 1
        assert predict(grpc.insecure_channel(f"localhost:{server.port}")) == 1
    path.write_text("precious")
    with pytest.raises(OSError, match="there is something else"):
        Server([model], port=0, socket_path=str(path)).start()
    assert path.read_text() == "precious"
    with pytest.raises(OSError, match="cannot listen at"):
        Server([model], port=0, socket_path=str(tmp_path / "no" / "folder")).start()


# --- limits


def test_messages_and_headers_have_limits(model):
    arguments = {"grpc.max_receive_message_length": 10_000}
    with Server([model], port=0, channel_arguments=arguments) as server:

        def opened():
            return grpc.insecure_channel(f"localhost:{server.port}")

        code, message = refused(opened(), size=100_000)
        assert code == "RESOURCE_EXHAUSTED"
        assert "larger than max" in message
        code, message = refused(opened(), metadata=[("x-large", "a" * 100_000)])
        assert code == "RESOURCE_EXHAUSTED"
        assert "metadata" in message
        assert predict(opened()) == 1


def test_queue_has_a_limit(model, monkeypatch):
    with Server([model], port=0, max_threads=1, max_queued=1) as server:
        entered, free = threading.Event(), threading.Event()
        acquire = server.manager.acquire

        def occupy(*args, **kwargs):
            entered.set()
            free.wait(20)
            return acquire(*args, **kwargs)

        monkeypatch.setattr(server.manager, "acquire", occupy)
        opened = grpc.insecure_channel(f"localhost:{server.port}")
        stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
        request = predict_pb2.PredictRequest()
        request.model_spec.name = "m"
        request.inputs["x"].CopyFrom(tf.make_tensor_proto(np.float32([1])))
        running = stub.Predict.future(request, timeout=20)
        assert entered.wait(20)
        others = [stub.Predict.future(request, timeout=20) for _ in range(3)]
        done = threading.Event()
        for other in others:
            other.add_done_callback(lambda call: call.code() and done.set())
        assert done.wait(20)  # one of them, at once: no room
        free.set()
        codes = sorted(call.code().name for call in (running, *others))
        assert codes == ["OK", "OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
        opened.close()


# --- health, reflection, metrics


def test_health_and_reflection_are_served_when_asked_for(model):
    with Server([model], port=0, health=True, reflection=True) as server:
        opened = grpc.insecure_channel(f"localhost:{server.port}")
        check = health_pb2_grpc.HealthStub(opened).Check
        for name in ("", "tensorflow.serving.PredictionService"):
            answer = check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(opened)
        (answer,) = stub.ServerReflectionInfo(iter([request]), timeout=20)
        names = {service.name for service in answer.list_services_response.service}
        assert {"tensorflow.serving.ModelService", "grpc.health.v1.Health"} <= names
        opened.close()
    with Server([model], port=0) as server:
        opened = grpc.insecure_channel(f"localhost:{server.port}")
        with pytest.raises(grpc.RpcError) as caught:
            health_pb2_grpc.HealthStub(opened).Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        opened.close()


def test_garbage_is_no_health_check_and_no_reflection(model, caplog):
    methods = ["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
    methods += ["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"]
    with (
        Server([model], port=0, health=True, reflection=True) as server,
        grpc.insecure_channel(f"localhost:{server.port}") as opened,
    ):
        calls = [opened.unary_unary(methods[0]), opened.unary_stream(methods[1])]
        reflect = opened.stream_stream(methods[2])
        for call in (*calls, lambda garbage, timeout: reflect(iter([garbage]), timeout=timeout)):
            with pytest.raises(grpc.RpcError) as caught:
                list(call(b"\xff\xff", timeout=20))
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert caught.value.details().startswith("the message is no grpc.")
        answer = health_pb2_grpc.HealthStub(opened).Check(
            health_pb2.HealthCheckRequest(), timeout=20
        )
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert "Traceback" not in caplog.text


def test_grpc_requests_are_counted(model):
    options = RestOptions(port=0, metrics_path="/metrics")
    with Server([model], port=0, rest=options) as server:
        assert predict(grpc.insecure_channel(f"localhost:{server.port}")) == 1
        wrong = predict_pb2.PredictRequest()
        wrong.model_spec.name = "m"
        with grpc.insecure_channel(f"localhost:{server.port}") as opened:
            stub = prediction_service_pb2_grpc.PredictionServiceStub(opened)
            with pytest.raises(grpc.RpcError):
                stub.Predict(wrong, timeout=20)
        page = urllib.request.urlopen(f"http://127.0.0.1:{server.rest_port}/metrics").read()
    lines = page.decode().splitlines()
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 1' in lines
    failed = ':tensorflow:serving:request_count{model_name="m",status="INVALID_ARGUMENT"} 1'
    assert failed in lines
    runs = ':tensorflow:serving:runtime_latency_count{model_name="m",API="Predict",runtime="TF1"} 1'
    assert runs in lines
