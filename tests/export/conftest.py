"""What tests of both clients share; test material (tiny_models.py) is imported by plain name."""

import asyncio
import contextlib
import sys
from pathlib import Path

import pytest

# Shared test material (toy_server.py) is imported by plain name.
sys.path.insert(0, str(Path(__file__).parent))

from export.client import AsyncClient, Client

sys.path.insert(0, str(Path(__file__).parent))


class Awaited:
    """An AsyncClient whose questions are asked as a Client's are."""

    def __init__(self, runner, client):
        self._runner, self._client = runner, client

    def __getattr__(self, name):
        async def call(*args, **kwargs):
            return await getattr(self._client, name)(*args, **kwargs)

        return lambda *args, **kwargs: self._runner.run(call(*args, **kwargs))


@contextlib.contextmanager
def opened_async(server, **settings):
    client = AsyncClient(server, **settings)  # outside of any event loop, as programs do
    with asyncio.Runner() as runner:
        awaited = Awaited(runner, client)
        try:
            yield awaited
        finally:
            awaited.close()


@pytest.fixture(params=[Client, opened_async], ids=["sync", "async"])
def connect(request):
    return request.param


@pytest.fixture(scope="session")
def versions(tmp_path_factory):
    """The versions 1, 2 and 3 of a toy model."""
    from toy_server import write_versions  # not where no server is tested: it imports TensorFlow

    return write_versions(tmp_path_factory.mktemp("versions"))
