"""The page at / of the REST port, where people try the served models: its files, what it asks."""

import json
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import Message
from tensorflow_serving.apis.get_model_status_pb2 import ModelVersionStatus

from export.server.models.manager import Manager
from export.server.rest.page.forms import forms
from export.server.rest.page.snippets import snippets
from export.server.status import ServingError

# What the page shows is text that clients and models choose: no script and no style but the files
# here, no address but this server's, and no string that becomes markup. Frames are allowed:
# notebooks show the page in one, and it has nothing that a click could change.
HEADERS = (
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; require-trusted-types-for 'script'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),  # another release of the page may be served next
)
_LIST = "/page/models.json"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
_FILES = {
    "/" if file.name == "index.html" else f"/page/{file.name}": file
    for file in Path(__file__).parent.iterdir()
    if file.suffix in _TYPES
}


class Page:
    """Answers what the page asks for, beside TensorFlow Serving's own paths.

    `grpc` says how the gRPC port is reached: `port`, `tls`, `reflection`.
    """

    def __init__(self, manager: Manager):
        self._manager = manager
        self.grpc: Mapping[str, object] = {}
        self._files = {
            path: (file.read_bytes(), f"{_TYPES[file.suffix]}; charset=utf-8")
            for path, file in _FILES.items()
        }

    def find(self, path: str) -> tuple[bytes, str] | None:
        """Content and type of what is at a path; None where nothing is."""
        if path == _LIST:
            return self._list().encode(), "application/json"
        return self._files.get(path)

    def snippets(self, method: str, request: Message, host: str) -> str:
        """JSON with the request as grpcurl and Python send it."""
        return json.dumps(snippets(method, request, host, self.grpc))

    def _list(self) -> str:
        """The models, versions (newest first) and what can be asked of the newest."""
        models = [
            {
                "name": name,
                "versions": [
                    {
                        "version": str(version.number),  # JavaScript's numbers end at 2^53
                        "state": ModelVersionStatus.State.Name(version.state),
                        "error": version.error.message if version.error else "",
                    }
                    for version in self._manager.versions_of(name)
                ],
                "signatures": self._signatures(name),
            }
            for name in self._manager.names()
        ]
        return json.dumps({"models": models})

    def _signatures(self, name: str) -> list[dict[str, object]]:
        try:
            with self._manager.acquire(name) as servable:
                return forms(servable.signatures)
        except ServingError:  # no version is there now; the states say why
            return []
