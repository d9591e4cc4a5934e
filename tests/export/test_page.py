"""The page at / of the REST port: its files, its list of models, and how it is turned off."""

import http.client
import json
import re
import socket
import sys
import tomllib
from pathlib import Path

import pytest
from toy_server import add_version, serving, until

from export.server import RestOptions, Retries, ServingError
from export.server.flags import parse
from export.server.program import make_server, open_page

pytestmark = pytest.mark.timeout(120)

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "export" / "server" / "rest" / "page"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js"))


def get(port, path, method="GET"):
    connection = http.client.HTTPConnection("localhost", port, timeout=20)
    connection.request(method, path)
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
    assert len(lines) <= 700
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
        for path in ("/", "/page/style.css", "/page/models.json"):
            code, content, headers = get(server.rest_port, path)
            assert (code, headers["Content-Type"]) == (404, "text/html")
            assert content == (
                b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n"
                b"<H1>Not Found</H1>\n</BODY></HTML>\n"
            )
        assert get(server.rest_port, "/v1/models/m")[0] == 200


def test_the_list_tells_of_states_and_of_the_grpc_port(versions, tmp_path):
    base = tmp_path / "m"
    base.mkdir()
    add_version(versions / "1", base / "1")
    rest = RestOptions(port=0)
    with serving(base, rest=rest, reflection=True, retries=Retries(0)) as (server, client):

        def now():
            (model,) = listed(server)["models"]
            return {one["version"]: (one["state"], one["error"]) for one in model["versions"]}

        grpc = {"port": server.port, "tls": False, "reflection": True}
        assert listed(server)["grpc"] == grpc
        assert now() == {"1": ("AVAILABLE", "")}
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


def parse_config(text):
    from google.protobuf import text_format

    from export.server.models.config import ModelServerConfig

    text = f'model_config_list {{ config {{ {text} model_platform: "tensorflow" }} }}'
    return text_format.Parse(text, ModelServerConfig())


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
