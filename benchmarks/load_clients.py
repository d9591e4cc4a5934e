"""Many clients that ask a server at one time, each without a pause, and check every answer.

A process of its own, so that it takes nothing from the server but its core:

    python -m benchmarks.load_clients < settings.json
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import numpy as np

from export.client import AsyncClient, RequestError

TOLERANCE = 1e-4
_DEADLINE = 60.0
_WARM_SECONDS = 1.0


@dataclasses.dataclass
class Load:
    """What a run of the clients showed.

    Args:
        seconds: float. How long they asked.
        answered: int. Requests with an answer, right or wrong.
        errors: Counter. Code, or kind of fault -> requests that ended so.
        wrong: int. Answers that are not the text's own; `mixed` of them are another text's.
        lost: int. Requests that were sent and ended in no way.
        latencies: list. Seconds of each answer.
    """

    seconds: float = 0.0
    answered: int = 0
    errors: Counter = dataclasses.field(default_factory=Counter)
    wrong: int = 0
    mixed: int = 0
    lost: int = 0
    latencies: list[float] = dataclasses.field(default_factory=list)

    def summary(self) -> dict:
        """As JSON: rate and latencies in place of all the latencies."""
        values = {name: getattr(self, name) for name in ("answered", "wrong", "mixed", "lost")}
        times = np.array(self.latencies or [np.nan]) * 1000
        p50, p99, longest = np.percentile(times, [50, 99, 100])
        rate = self.answered / self.seconds
        return {**values, "errors": dict(self.errors), "rate": rate, **_named(p50, p99, longest)}


def _named(p50: float, p99: float, longest: float) -> dict[str, float]:
    return {"p50": p50, "p99": p99, "max": longest}


Ask = Callable[[bytes], Awaitable[tuple[bytes, np.ndarray]]]


class Answers:
    """Right answers by text, and which text a wrong one belongs to."""

    def __init__(self, texts: list[bytes], labels: list[bytes], scores: np.ndarray):
        self._right = {text: (labels[i], scores[i]) for i, text in enumerate(texts)}
        self._scores = scores

    def check(self, text: bytes, label: bytes, scores: np.ndarray, load: Load) -> None:
        """Counts the answer."""
        load.answered += 1
        right_label, right = self._right[text]
        near = scores.shape == right.shape and np.abs(scores - right).max() < TOLERANCE
        if not near or label != right_label:
            load.wrong += 1
            load.mixed += bool((np.abs(self._scores - scores).max(axis=-1) < TOLERANCE).any())


async def run_clients(asks: list[Ask], texts: list[bytes], right: Answers, seconds: float) -> Load:
    """Lets each client ask for so long; the texts go round, no two clients have one at a time."""
    load, sent = Load(), 0
    began = time.perf_counter()
    end = began + seconds

    async def client(ask: Ask) -> None:
        nonlocal sent
        while time.perf_counter() < end:
            text = texts[sent % len(texts)]
            sent += 1
            start = time.perf_counter()
            try:
                label, scores = await ask(text)
            except RequestError as error:
                load.errors[error.code().name] += 1
            except RefusedError as error:
                load.errors[str(error)] += 1
            except (OSError, ValueError, asyncio.IncompleteReadError) as error:
                load.errors[type(error).__name__] += 1
            else:
                load.latencies.append(time.perf_counter() - start)
                right.check(text, label, scores, load)

    await asyncio.gather(*map(client, asks))
    load.seconds = time.perf_counter() - began
    load.lost = sent - load.answered - sum(load.errors.values())
    return load


class RefusedError(Exception):
    """An answer over HTTP with another code than 200."""


class GrpcAsker(AsyncClient):
    """One client with a connection of its own."""

    def __init__(self, address: str):
        super().__init__(address, timeout=_DEADLINE, retries=0)  # an error shall be seen
        # Else gRPC has one connection for all clients of a process.
        self._options.append(("grpc.use_local_subchannel_pool", 1))

    async def ask(self, text: bytes) -> tuple[bytes, np.ndarray]:
        """Label and scores of a text."""
        outputs = (await self.predict("m", {"text": [text]})).outputs
        return outputs["label"][0], outputs["scores"][0]


class RestAsker:
    """One client with a connection of its own, kept alive."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: bytes) -> tuple[bytes, np.ndarray]:
        """Label and scores of a text."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        body = json.dumps({"instances": [text.decode()]}).encode()
        head = (
            f"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        async with asyncio.timeout(_DEADLINE):
            status, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in headers if line)
            answer = json.loads(await reader.readexactly(int(fields[b"content-length"])))
        if b" 200 " not in status:
            raise RefusedError(status.decode())
        (row,) = answer["predictions"]
        return row["label"].encode(), np.float32(row["scores"])

    async def close(self) -> None:
        """Closes the connection."""
        if self._streams is not None:
            self._streams[1].close()


async def _measure(settings: dict) -> dict:
    kept = np.load(settings["answers"], allow_pickle=False)
    texts, labels = kept["texts"].tolist(), kept["labels"].tolist()
    right = Answers(texts, labels, kept["scores"])
    kind, at = (RestAsker, settings["rest"]) if settings["rest"] else (GrpcAsker, settings["grpc"])
    clients = [kind(at) for _ in range(settings["clients"])]
    try:
        asks = [client.ask for client in clients]
        warm = await run_clients(asks, texts, right, _WARM_SECONDS)  # connects, too
        load = await run_clients(asks, texts, right, settings["seconds"])
        return {**load.summary(), "warm": warm.answered}
    finally:
        for client in clients:
            await client.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(_measure(json.load(sys.stdin)))))
