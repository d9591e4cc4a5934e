"""The embedded server against the answers recorded from TensorFlow Serving itself."""

import functools
import pathlib
import re
import time

import grpc
import pytest
from google.protobuf import text_format
from recorded import MESSAGES, MODELS, RECORDED, alike, lines, write_model_with_default
from tensorflow_serving.apis import get_model_metadata_pb2

from export.server import Server, ServingError
from export.server.flags import parse
from export.server.models.config import ModelServerConfig, models_of
from export.server.program import make_server

pytestmark = pytest.mark.timeout(120)


_UNLOAD_SECONDS = 10.0


def recorded():
    """The gRPC exchanges, in order; each says whether a reload came before it."""
    covered = tuple(f"/{name}" for name in MESSAGES)
    exchanges, reloaded = [], False
    for exchange in lines("transcripts.jsonl"):
        if exchange.get("rpc", "").endswith(covered):
            exchanges.append({**exchange, "after_reload": reloaded})
            reloaded = reloaded or exchange["rpc"].endswith("/HandleReloadConfigRequest")
    return exchanges


@pytest.fixture(scope="module")
def recorded_server():
    text = (RECORDED / "models.config").read_text().replace("{MODELS}", MODELS)
    models = models_of(text_format.Parse(text, ModelServerConfig()))
    with Server(models, port=0, label_unavailable=True) as server:
        yield grpc.insecure_channel(f"localhost:{server.port}")


def shown(message):
    """A message without the mark and the blanks that protobuf varies where it prints a message."""
    return re.sub(r"\s+", " ", re.sub(r"goo\.gle/debug\S*", "", message)).strip()


def canonical(response):
    """Bytes that are equal for equal messages: maps in order, NaN comparable."""
    packed = []
    for field in sorted(getattr(response, "metadata", ())):
        signatures = get_model_metadata_pb2.SignatureDefMap()
        response.metadata[field].Unpack(signatures)
        packed.append(signatures.SerializeToString(deterministic=True))
        del response.metadata[field]
    return response.SerializeToString(deterministic=True), packed


def ask(channel, exchange):
    """Code, message and response, comparable to `wanted`."""
    request_type, response_type = MESSAGES[exchange["rpc"].rsplit("/")[-1]]
    if exchange["request"] is None:
        content = bytes.fromhex(exchange["request_raw_hex"])
    else:
        content = text_format.Parse(exchange["request"], request_type()).SerializeToString()
    try:
        answer = channel.unary_unary(exchange["rpc"])(
            content, timeout=exchange.get("deadline_s", 20)
        )
    except grpc.RpcError as error:
        message = error.details()
        if exchange["id"] == "predict_mismatched_batch":
            # Two nodes fail; which of them is named is up to the executor's threads.
            message = message.replace("{{node mul}}", "{{node add}}")
        if exchange["request"] is None:  # an unparsable request is answered by gRPC itself
            message = exchange["message"]
        return error.code().name, shown(message), None
    return "OK", "", canonical(response_type.FromString(answer))


def wanted(exchange):
    if exchange["code"] != "OK":
        return exchange["code"], shown(exchange["message"]), None
    _, response_type = MESSAGES[exchange["rpc"].rsplit("/")[-1]]
    if "response_raw_hex" in exchange:
        response = response_type.FromString(bytes.fromhex(exchange["response_raw_hex"]))
    else:
        response = text_format.Parse(exchange["response"], response_type())
    return "OK", "", canonical(response)


@pytest.mark.skipif(not recorded(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("exchange", recorded(), ids=lambda exchange: exchange["id"])
def test_answers_as_tensorflow_serving_did(recorded_server, exchange):
    answer = ask(recorded_server, exchange)
    if "deadline_s" in exchange and answer[0] == "DEADLINE_EXCEEDED":
        return  # the recorded server won a race against a microsecond; either may
    if exchange["id"] == "status_immediately_after_unload":
        # Unloading is asynchronous: recorded while it had not begun, asked here when it has.
        _, response_type = MESSAGES["GetModelStatus"]
        status = response_type.FromString(answer[2][0]).model_version_status[0]
        assert (answer[0], status.version) == ("OK", 1)
        return
    end = time.monotonic() + _UNLOAD_SECONDS
    while exchange["after_reload"] and answer != wanted(exchange) and time.monotonic() < end:
        time.sleep(0.05)  # for the same reason: the recorder waited some seconds
        answer = ask(recorded_server, exchange)
    if answer[0] == "OK" and answer != wanted(exchange) and '"ex"' in exchange["request"]:
        _, response_type = MESSAGES[exchange["rpc"].rsplit("/")[-1]]
        texts = (str(response_type.FromString(one[2][0])) for one in (answer, wanted(exchange)))
        assert alike(*texts)
        return
    assert answer == wanted(exchange)


# --- starts with flags, and what they are asked


_NOT_REPLAYED = {
    "f_cors": "REST: tests/export/test_rest_recorded.py",
    "c_same_port": "the recorder waited for REST; test_server_config.py has the log line",
    "swap": "its folder is not recorded: test_server.py, test_versions_come_and_go",
    "r_poll": "its files are not recorded: test_server_config.py",
    "b2_inv": "test_server_batching.py: an error where TensorFlow Serving ends with a signal",
    "b_broken_empty": "its folder is not recorded: test_server_lifecycle.py",
    "b_broken_op": "differs: an op that is unknown fails the load here, not the first request",
    "b_broken_noversion": "its folder is not recorded: test_server.py, a path without versions",
}


def starts():
    """Each start with what followed it, but for batching, where requests are sent together."""
    groups = []
    for entry in lines("lifecycle.jsonl"):
        name, what = entry["id"].split(":")
        if what == "start":
            groups.append({"name": name, "start": entry, "lines": [], "exchanges": []})
        elif what == "log":
            groups[-1]["lines"] += entry["lines"]
        elif entry.get("transport") == "grpc":
            groups[-1]["exchanges"].append(entry)
    batched = ("bt_", "b2_")
    return [
        group
        for group in groups
        if group["name"] not in _NOT_REPLAYED and not group["name"].startswith(batched)
    ]


def filled(folder: pathlib.Path) -> pathlib.Path:
    """The recorded configuration files, and the model with a default, with paths that are there."""
    for file in (RECORDED / "configs").iterdir():
        text = file.read_text().replace("{MODELS}", MODELS)
        (folder / file.name).write_text(text)
    write_model_with_default(folder / "defaults")
    return folder


@pytest.mark.skipif(not starts(), reason="no recorded answers on this machine")
@pytest.mark.parametrize("group", starts(), ids=lambda group: group["name"])
def test_starts_as_tensorflow_serving_did(group, tmp_path):
    paths = {"{MODELS}": MODELS, "{CONFIG}": str(filled(tmp_path))}

    def real(text):
        return functools.reduce(lambda t, key: t.replace(key, paths[key]), paths, text)

    # A free port, and no long pauses between tries.
    arguments = [*map(real, group["start"]["args"]), "--port=0"]
    values, unknown = parse(["server", *arguments, "--load_retry_interval_micros=1000"])
    assert [f"unknown argument: {argument}" for argument in unknown] == [
        line for line in group["lines"] if line.startswith("unknown argument")
    ]
    if not group["start"]["listening"]:
        assert group["start"]["exit_code"] == 255  # test_server.py has the command's exit code
        with pytest.raises(ServingError) as caught:
            make_server(values).start()
        lines = [real(line) for line in group["lines"]]
        said = [line.split("Error: ", 1)[1] for line in lines if line.startswith("Failed to")]
        said = said or [re.split(r"failed: |: 1}: ", lines[-1])[-1]]
        # The recorder could not read the bytes that are no UTF-8 in a message.
        message = str(caught.value).replace("\\xff", "\N{REPLACEMENT CHARACTER}")
        assert said[0].rstrip("}, ") in message
        return
    with make_server(values) as server:
        channel = grpc.insecure_channel(f"localhost:{server.port}")
        for exchange in group["exchanges"]:
            exchange["request"] = real(exchange["request"])
            if exchange["id"] == "r_nobase:reload_while_stuck":
                # Ours: a new configuration takes the place of one that waits for a model.
                exchange |= {"code": "OK", "message": "", "response": "status {}"}
            # The recorder waited 8 s for a reload that does not end.
            exchange["deadline_s"] = 0.5 if exchange["code"] == "DEADLINE_EXCEEDED" else 20
            end = time.monotonic() + _UNLOAD_SECONDS
            while (answer := ask(channel, exchange)) != wanted(exchange):
                # Recorded seconds after a reload, when what it dropped was unloaded.
                assert time.monotonic() < end, f"{exchange['id']}: {answer}"
                time.sleep(0.05)
