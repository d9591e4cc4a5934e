"""Golden requests asked again, in the ways that real clients ask, and what came out otherwise."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from export.golden.pairs import GoldenPair, deviation, differences

Ask = Callable[[str, dict[str, np.ndarray]], dict[str, np.ndarray]]

# What a server that batches, TensorFlow Serving or ours, says to a request that fits no batch.
_TOO_MANY_ROWS = re.compile(r"larger than maximum input batch size (\d+)")


@dataclasses.dataclass(frozen=True)
class Replay:
    """What one way of asking brought.

    Attributes:
        name: str. How was asked: "cold", "warm", "rows alone", "8 clients".
        problems: list of str. One readable line for each value that departs from its golden one.
        milliseconds: float for each request, in the order of asking.
        deviation: float. The largest |answer - golden| of a float, over what is tolerated.
        most_rows: int. Golden requests of more rows were refused, so they were asked in parts of
            so many; 0 when none was.
    """

    name: str
    problems: list[str]
    milliseconds: list[float]
    deviation: float
    most_rows: int = 0

    @property
    def median(self) -> float:
        """Median time of a request, in milliseconds."""
        return statistics.median(self.milliseconds) if self.milliseconds else 0.0


def replay(pairs: Sequence[GoldenPair], ask: Ask, clients: int = 0) -> list[Replay]:
    """Asks every golden request: cold, row by row, warm, and by several clients at once.

    An answer must not depend on what was asked before, on its batch, nor on who asks at the same
    time: a server that batches mixes the rows of those clients. A request of more rows than the
    server's `max_batch_size` is asked in parts.

    Args:
        pairs: from `read_golden_pairs`.
        ask: (signature, inputs) -> outputs; called from several threads.
        clients: int. How many ask at once; with 0, the default, only the first two are done.

    Returns:
        The replays "cold" (the first time that this is asked here), "rows alone", "warm" and
        "N clients".

    Example: `[len(r.problems) for r in replay(pairs, ask, clients=8)]  # [0, 0, 0, 0]`
    """
    rows = [pair.row(row) for pair in pairs for row in range(pair.rows)]
    replays = [
        _whole("cold", pairs, ask),
        _collect("rows alone", (_answer(row, ask, alone=True) for row in rows)),
    ]
    if not clients:
        return replays
    replays.append(_whole("warm", pairs, ask))
    # Neighbours of different requests, in an order that is the same each time.
    order = np.random.default_rng(0).permutation(len(rows))
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        answers = pool.map(lambda index: _answer(rows[index], ask, alone=True), order)
        replays.append(_collect(f"{clients} clients", answers))
    return replays


def problems_of(replays: Iterable[Replay]) -> list[str]:
    """All their differences, each with the way of asking before it."""
    return [f"{replay.name}: {line}" for replay in replays for line in replay.problems]


def summary(replays: Iterable[Replay]) -> str:
    """A table for a terminal: one line for each way of asking.

    Example:
        way of asking  requests  differences  of the tolerance  first ms  median ms
        cold                  5            0             0.01     812.3        4.1
    """
    lines = ["way of asking    requests  differences  of the tolerance   first ms  median ms"]
    for one in replays:
        first = one.milliseconds[0] if one.milliseconds else 0.0
        lines.append(
            f"{one.name:<17}{len(one.milliseconds):>8}{len(one.problems):>13}"
            f"{one.deviation:>18.3f}{first:>11.1f}{one.median:>11.1f}"
        )
        if one.most_rows:
            lines.append(f"  in parts of {one.most_rows} rows, the server's max_batch_size")
    return "\n".join(lines)


def _whole(name: str, pairs: Sequence[GoldenPair], ask: Ask) -> Replay:
    """Each pair as one request; in parts where a server says that it is too large."""
    answers, most_rows = [], 0
    for pair in pairs:
        try:
            answers.append(_answer(pair, ask, alone=False))
        except Exception as error:
            found = _TOO_MANY_ROWS.search(str(error))
            most = int(found[1]) if found else pair.rows
            if not 0 < most < pair.rows:
                raise
            most_rows = most
            parts = [pair.part(begin, begin + most) for begin in range(0, pair.rows, most)]
            answers += [_answer(part, ask, alone=True) for part in parts]
    return dataclasses.replace(_collect(name, answers), most_rows=most_rows)


def _answer(pair: GoldenPair, ask: Ask, alone: bool) -> tuple[list[str], float, float]:
    started = time.perf_counter()
    answer = ask(pair.signature, pair.inputs)
    seconds = time.perf_counter() - started
    problems = differences(pair, answer, cut_padding=alone)
    return problems, 1e3 * seconds, 0.0 if problems else deviation(pair, answer)


def _collect(name: str, answers: Iterable[tuple[list[str], float, float]]) -> Replay:
    answers = list(answers)
    problems = [line for lines, _, _ in answers for line in lines]
    worst = max((deviation for _, _, deviation in answers), default=0.0)
    return Replay(name, problems, [milliseconds for _, milliseconds, _ in answers], worst)
