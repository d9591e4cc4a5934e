"""What does the server add to a direct session call, for one client?

`x / 2 + 2` and a text classifier (BERT of 2 layers x 128, raw string to label and scores) are asked
one row at a time: through `export.server.run.servable` in the server's own kind of process, and
through
`python -m export.server` over gRPC (`export.client`) and REST (one connection, kept alive). The
session and the server share one core, because only one of them works at a time; the client has
another. Rounds go round, A/B/C/A/B/C; the table has medians over the rounds of each round's
median, and of what a round's gRPC and REST added to the session's median of the same round.
LATENCY_ROUNDS sets the rounds, 7 by default; LATENCY_CALLS the calls in each, 300.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.measure import pin
from benchmarks.served_classifier import export_classifier, make_texts
from benchmarks.server_process import ServerProcess
from benchmarks.table import Table

ROUNDS = int(os.environ.get("LATENCY_ROUNDS", "7"))
CALLS = int(os.environ.get("LATENCY_CALLS", "300"))
WAYS = ("session", "gRPC", "REST")


def main() -> None:
    """Prints the table."""
    cores = sorted(os.sched_getaffinity(0))
    pin(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(name)
        _export_half_plus_two(folder / "half")
        export_classifier(folder / "classifier")
        texts = make_texts(1000)
        numbers = [np.float32([number]) for number in range(1000)]
        words = [np.array([text], object) for text in texts]
        columns = ("session ms", "gRPC ms", "REST ms", "REST adds ms")
        table = Table(
            "serving_latency",
            9,
            "the server on top of a session call, 1 client",
            extra=columns,
            packages=("grpcio", "tornado"),
        )
        for label, base, signature, alias, values in (
            ("half_plus_two", "half", "serving_default", "x", numbers),
            ("classifier", "classifier", "predict", "text", words),
        ):
            rounds = _measure(folder / base, signature, alias, values, cores[0])
            cells = [statistics.median(times) for times in zip(*rounds)]
            grpc, rest = (
                statistics.median(times[place] - times[0] for times in rounds) for place in (1, 2)
            )
            extra = {name: f"{cell:.2f}" for name, cell in zip(columns, [*cells, rest])}
            table.add(f"{label}, gRPC", grpc, unit="ms p50 added", goal="<= 1.5", extra=extra)
    table.close(f"p50, medians of {ROUNDS} rounds of {CALLS} calls; pinned")


def _export_half_plus_two(folder: Path) -> None:
    import tensorflow as tf

    module = tf.Module()
    module.half, module.two = tf.Variable(0.5), tf.Variable(2.0)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def half_plus_two(x):
        return {"y": module.half * x + module.two}

    tf.saved_model.save(module, str(folder / "1"), signatures=half_plus_two)


def _measure(base: Path, signature: str, alias: str, values: list, core: int) -> list[list[float]]:
    """Of each round, the median milliseconds of each of WAYS."""
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(_session(base / "1", signature, alias, values, core))
        server = stack.enter_context(ServerProcess(base, cores=[core], rest=True))
        asks = [
            stack.enter_context(_over_grpc(server, signature, alias)),
            stack.enter_context(_over_rest(server, signature)),
        ]
        rounds = []
        for number in range(ROUNDS + 1):
            chosen = [values[(number * CALLS + i) % len(values)] for i in range(CALLS)]
            rounds.append([session(number), *(_median(ask, chosen) for ask in asks)])
        return rounds[1:]  # the first one connects and warms up


def _median(ask: Callable, values: list) -> float:
    times = []
    for value in values:
        begin = time.perf_counter()
        ask(value)
        times.append(time.perf_counter() - begin)
    return 1000 * statistics.median(times)


@contextlib.contextmanager
def _session(*arguments) -> Iterator[Callable[[int], float]]:
    """A process of its own, so that its threads are as many as the server's."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run_sessions, args=(there, *arguments), daemon=True)
    process.start()

    def run(number: int) -> float:
        here.send(number)
        return here.recv()

    yield run
    here.send(None)
    process.join()


def _run_sessions(pipe, path: Path, signature: str, alias: str, values: list, core: int) -> None:
    os.sched_setaffinity(0, [core])
    from export.server.run.servable import Servable

    servable = Servable("m", 1, str(path))
    definition = servable.signatures[signature]
    feed = definition.inputs[alias].name
    fetches = [definition.outputs[name].name for name in sorted(definition.outputs)]
    while (number := pipe.recv()) is not None:
        chosen = [values[(number * CALLS + i) % len(values)] for i in range(CALLS)]
        pipe.send(_median(lambda value: servable.run({feed: value}, fetches), chosen))


@contextlib.contextmanager
def _over_grpc(server: ServerProcess, signature: str, alias: str) -> Iterator[Callable]:
    from export.client import Client

    with Client(server.address) as client:
        yield lambda value: client.predict("m", {alias: value}, signature)


@contextlib.contextmanager
def _over_rest(server: ServerProcess, signature: str) -> Iterator[Callable]:
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port)

    def ask(value: np.ndarray) -> list:
        row = value[0].decode() if value.dtype == object else float(value[0])
        body = json.dumps({"signature_name": signature, "instances": [row]})
        connection.request("POST", "/v1/models/m:predict", body)
        answer = json.loads(connection.getresponse().read())
        return answer["predictions"]

    with contextlib.closing(connection):
        yield ask
