"""Golden requests sent again, in the ways that real clients send them, and what differs."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import re
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.client import Client
from export.golden.compare import differences
from export.golden.examples import Send
from export.golden.pairs import GoldenPair, read_golden_pairs
from export.model_folder import GOLDEN_FILE
from export.server.run.batching import BatchingParameters
from export.server.run.servable import Servable

# What a server that batches, TensorFlow Serving or ours, says to a request that fits no batch.
_TOO_MANY_ROWS = re.compile(r"larger than maximum input batch size (\d+)")


@dataclasses.dataclass
class Replay:
    """What one way of sending brought."""

    name: str  # "cold", "rows alone", "warm", "8 clients"
    problems: list[str] = dataclasses.field(default_factory=list)  # a line for each wrong value
    milliseconds: list[float] = dataclasses.field(default_factory=list)  # in the order of sending
    deviation: float = 0.0  # the largest |answer - golden| of a float, over what is tolerated
    most_rows: int = 0  # requests of more rows were refused, and sent in parts of so many


@dataclasses.dataclass(frozen=True)
class Session:
    """A SavedModel that was loaded, to be asked in this process."""

    version_folder: Path
    send: Send
    load_seconds: float


@contextlib.contextmanager
def local_session(
    version_folder: Path, batching: BatchingParameters | None = None
) -> Iterator[Session]:
    """A session of one SavedModel, as TensorFlow Serving runs it; closed in the end."""
    started = time.perf_counter()
    servable = Servable("verify", 0, str(version_folder), batching=batching)
    with contextlib.closing(servable):
        seconds = time.perf_counter() - started
        yield Session(version_folder, functools.partial(ask_servable, servable), seconds)


def replay_locally(
    version_folder: Path, clients: int = 0, batching: BatchingParameters | None = None
) -> list[Replay]:
    """`replay` of one SavedModel through a session."""
    pairs = read_golden_pairs(version_folder / GOLDEN_FILE)
    with local_session(version_folder, batching) as session:
        return replay(pairs, session.send, clients)


def ask_servable(
    servable: Servable, signature: str, inputs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Runs one signature in this process, with the SignatureDef's defaults for absent inputs."""
    definition = servable.signatures[signature]
    feeds = {info.name: inputs.get(name) for name, info in definition.inputs.items()}
    for name, default in definition.defaults.items():
        if name not in inputs:
            feeds[definition.inputs[name].name] = tf.make_ndarray(default)
    outputs = definition.outputs.values()
    return dict(zip(definition.outputs, servable.run(feeds, [info.name for info in outputs])))


def replay_remotely(
    version_folder: Path, client: Client, model: str, clients: int = 0
) -> list[Replay]:
    """`replay` against a server that speaks TensorFlow Serving's gRPC, ours or the official one."""
    known = client.signatures(model)
    calls = {CLASSIFY_METHOD: client.classify, REGRESS_METHOD: client.regress}

    def send(signature, inputs):
        call = calls.get(known[signature].method_name) if signature in known else None
        if call:
            return call(model, inputs["inputs"], signature).outputs
        return client.predict(model, inputs, signature).outputs

    return replay(read_golden_pairs(version_folder / GOLDEN_FILE), send, clients)


def replay(pairs: Sequence[GoldenPair], send: Send, clients: int = 0) -> list[Replay]:
    """Sends every request cold, row by row and, with `clients`, warm and by several at once."""
    rows = [row for pair in pairs for row in pair.split()]
    replays = [
        _whole("cold", pairs, send),
        _collect("rows alone", (_timed(row, send, alone=True) for row in rows)),
    ]
    if clients:
        replays.append(_whole("warm", pairs, send))
        # Neighbours of different requests, which a batching server mixes; always the same order.
        order = np.random.default_rng(0).permutation(len(rows))
        with concurrent.futures.ThreadPoolExecutor(clients) as pool:
            answers = pool.map(lambda index: _timed(rows[index], send, alone=True), order)
            replays.append(_collect(f"{clients} clients", answers))
    return replays


def problems_of(replays: Iterable[Replay]) -> list[str]:
    """All their differences, each with the way of sending before it."""
    return [f"{replay.name}: {line}" for replay in replays for line in replay.problems]


def summary(replays: Iterable[Replay]) -> str:
    """A table for a terminal: one line for each way of sending."""
    lines = ["way of asking    requests  differences  of the tolerance   first ms  median ms"]
    for one in replays:
        times = one.milliseconds or [0.0]
        lines.append(
            f"{one.name:<17}{len(one.milliseconds):>8}{len(one.problems):>13}"
            f"{one.deviation:>18.3f}{times[0]:>11.1f}{statistics.median(times):>11.1f}"
        )
        if one.most_rows:
            lines.append(f"  in parts of {one.most_rows} rows, the server's max_batch_size")
    return "\n".join(lines)


def _whole(name: str, pairs: Sequence[GoldenPair], send: Send) -> Replay:
    """Each pair as one request; in parts where a server says that it is too large."""
    answers, most_rows = [], 0
    for pair in pairs:
        try:
            answers.append(_timed(pair, send, alone=False))
        except Exception as error:
            found = _TOO_MANY_ROWS.search(str(error))
            most = int(found[1]) if found else pair.rows
            if not 0 < most < pair.rows:
                raise
            most_rows = most
            parts = [pair.part(begin, begin + most) for begin in range(0, pair.rows, most)]
            answers += [_timed(part, send, alone=True) for part in parts]
    return dataclasses.replace(_collect(name, answers), most_rows=most_rows)


def _timed(pair: GoldenPair, send: Send, alone: bool) -> tuple[list[str], float, float]:
    """(differences, deviation, milliseconds) of one request."""
    started = time.perf_counter()
    answer = send(pair.signature, pair.inputs)
    milliseconds = 1e3 * (time.perf_counter() - started)
    return *differences(pair, answer, cut_padding=alone), milliseconds


def _collect(name: str, answers: Iterable[tuple[list[str], float, float]]) -> Replay:
    found = Replay(name)
    for lines, deviation, milliseconds in answers:
        found.problems += lines
        found.deviation = max(found.deviation, deviation)
        found.milliseconds.append(milliseconds)
    return found
