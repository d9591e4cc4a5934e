"""Does a token cost more because the model could hold a longer text, or because it does?

A GPT-2 of 6 layers x 512 (random weights, one id for each byte) with a context of 64, 256 and 1024
continues a text greedily, batch 1: ours through the exported SavedModel's session, as TensorFlow
Serving runs it, KerasHub through `generate`. The time of a token is the difference between 40 and 8
new tokens over 32, so that prompt and call cost drop out.

"short text" has a prompt of 16 bytes; "full context" one that leaves room for 40 tokens alone, so
that each token attends to a whole context. KerasHub has room for the whole context from the start
and reads all of it for every token, so the two are the same to it; it is measured at the second.
There both must write the same 40 tokens before anything is timed. DECODE_RUNS sets the runs, 9 by
default.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from benchmarks import decode_peers
from benchmarks.measure import Timing, interleaved, pin
from benchmarks.table import Table

CAPACITIES = (64, 256, 1024)
PROMPT = 16
FEW, MANY = 8, 40
RUNS = int(os.environ.get("DECODE_RUNS", "9"))
SHAPE = {"vocab_size": 257, "n_layer": 6, "n_head": 8, "n_embd": 512}
_Cell = tuple[str, int, int]  # who, context, new tokens


def main() -> None:
    """Prints the table."""
    pin(1)
    settings = {}
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
        for capacity in CAPACITIES:
            settings |= _settings(Path(folder) / str(capacity), capacity)
        timings = interleaved(settings, RUNS)
    table = Table(
        "decode_capacity", 7, "one token, 6 layers x 512", ("keras-hub",), packages=("keras-hub",)
    )
    for case, goal in (("short text", "<= 5"), ("full context", ">= 1x")):
        for capacity in CAPACITIES:
            table.add(
                f"{case}, context {capacity}",
                _milliseconds(timings, case, capacity),
                {"keras-hub": _milliseconds(timings, "keras-hub", capacity)},
                unit="ms",
                goal=goal,
            )
    table.close(f"Through the SavedModel's session; one pinned thread, medians of {RUNS}")


def _settings(folder: Path, capacity: int) -> dict[_Cell, decode_peers.Generator]:
    import zoo
    from export.saved_model import export_saved_model

    tokenizer = decode_peers.byte_tokenizer()
    decode_peers.write_gpt2(folder / "hf", tokenizer, n_positions=capacity, **SHAPE)
    version = export_saved_model(zoo.load(folder / "hf"), folder / "served")
    hub = decode_peers.keras_hub_generator(folder / "hf")
    settings = {}
    for case, length in (("short text", PROMPT), ("full context", capacity - MANY)):
        text, ids = decode_peers.prompt_of(tokenizer, length)
        for count in (FEW, MANY):
            ours = decode_peers.served_generator(version, text, count)
            settings[case, capacity, count] = ours
            if case == "full context":
                # It writes until its room is full: fewer tokens after a longer prompt.
                known = [*ids, *[ids[0]] * (MANY - count)]
                settings["keras-hub", capacity, count] = lambda known=known: hub(known, capacity)
    _compare(settings, capacity, tokenizer)
    return settings


def _compare(settings: dict, capacity: int, tokenizer) -> None:
    ours = settings["full context", capacity, MANY]()
    (theirs,) = tokenizer.decode([settings["keras-hub", capacity, MANY]()]).numpy()
    if ours != theirs:
        raise AssertionError(f"context {capacity}: ours writes {ours!r}, keras-hub {theirs!r}")


def _milliseconds(timings: dict[_Cell, Timing], who: str, capacity: int) -> float:
    many, few = (timings[who, capacity, count].wall for count in (MANY, FEW))
    return 1000 * (many - few) / (MANY - FEW)
