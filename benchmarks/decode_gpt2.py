"""GPT-2 of 124M parameters writes 64 tokens after 32, greedily, batch 1: tokens a second.

The same random weights are given to all (`benchmarks.decode_peers`). Ours is exported from their
folder (`python -m export`, with each `--precision`) and asked through a session, as TensorFlow
Serving does: text in, text out. The peers are transformers (torch, with its cache, float32 and
bfloat16) and KerasHub, which get token ids and give token ids. Before anything is timed the texts
are compared: equal for all that compute in float32; of the reduced precisions it is told how many
tokens are the same before the first other one. One pinned thread, runs in turns, medians; the whole
request is timed, prompt included. DECODE_FOLDER names a folder where the models stay for a next
run (2 GB); DECODE_RUNS sets the runs, 5 by default.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import decode_peers
from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

RUNS = int(os.environ.get("DECODE_RUNS", "5"))
PROMPT, NEW = 32, 64
PRECISIONS = ("float32", "bfloat16", "int8")
GOALS = {"float32": ">= 1.3x transformers", "int8": ">= 2x transformers"}
PEERS = ("transformers", "transformers bfloat16", "keras-hub")


def main() -> None:
    """Prints the table."""
    pin(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(os.environ.get("DECODE_FOLDER") or name)
        tokenizer = decode_peers.gpt2_tokenizer()
        if not (folder / "hf").exists():
            decode_peers.write_gpt2(folder / "hf", tokenizer)
        for precision in PRECISIONS:
            if not (folder / precision / "1").exists():
                export(folder, precision)
        _measure(folder, tokenizer)


def export(folder: Path, precision: str) -> None:
    """`folder/PRECISION/1`, by the command that users run."""
    command = [sys.executable, "-m", "export", f"--workdir={folder / 'hf'}", "--version=1"]
    command += [f"--out={folder / precision}", f"--precision={precision}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def _measure(folder: Path, tokenizer) -> None:
    text, ids = decode_peers.prompt_of(tokenizer, PROMPT)
    hub = decode_peers.keras_hub_generator(folder / "hf")
    settings = {
        **{
            name: decode_peers.served_generator(folder / name / "1", text, NEW)
            for name in PRECISIONS
        },
        "transformers": decode_peers.transformers_generator(folder / "hf", ids, NEW),
        "transformers bfloat16": decode_peers.transformers_generator(
            folder / "hf", ids, NEW, "bfloat16"
        ),
        "keras-hub": lambda: hub(ids, PROMPT + NEW),
    }
    same = _same_tokens(settings, tokenizer)
    timings = interleaved(settings, RUNS)
    rates = {name: NEW / timing.wall for name, timing in timings.items()}
    table = Table(
        "decode_gpt2",
        6,
        f"GPT-2 124M, {PROMPT} + {NEW} tokens, greedy, batch 1",
        PEERS,
        ("CPU-s", "SavedModel MB", "same tokens", "score moved"),
        ("torch", "transformers", "keras-hub"),
    )
    for precision in PRECISIONS:
        table.add(
            precision,
            rates[precision],
            {name: rates[name] for name in PEERS},
            unit="tokens/s",
            better="more",
            goal=GOALS.get(precision),
            extra={
                "CPU-s": f"{timings[precision].cpu:.2f}",
                "SavedModel MB": f"{_megabytes(folder / precision / '1'):.0f}",
                "same tokens": f"{same[precision]} of {NEW}",
                "score moved": _moved(folder / precision / "1"),
            },
            timings=timings,
        )
    peers = ", ".join(f"{name} {timings[name].cpu:.2f}" for name in PEERS)
    table.close(
        f"One pinned thread, medians of {RUNS}; CPU-s of peers: {peers}; same tokens: before the "
        f"first that transformers' float32 does not write ({same['transformers bfloat16']} by its "
        "bfloat16); score moved: log-likelihood of the golden requests, against float32"
    )


def _same_tokens(settings: dict, tokenizer) -> dict[str, int]:
    """How many tokens are as transformers' float32 writes them; raises where all must be."""
    texts = {}
    for name, generate in settings.items():
        answer = generate()
        if not isinstance(answer, bytes):
            (answer,) = tokenizer.decode([answer]).numpy()
        texts[name] = answer
    expected = settings["transformers"]()
    # Of the longest common start, as tokens of the expected text.
    same = {}
    for name, text in texts.items():
        same[name] = next(
            count
            for count in range(NEW, -1, -1)
            if text.startswith(tokenizer.decode([expected[:count]]).numpy()[0])
        )
    for name in ("float32", "keras-hub"):
        if texts[name] != texts["transformers"]:
            raise AssertionError(
                f"{name} writes otherwise than transformers after {same[name]} tokens:\n"
                f"{texts[name]}\n{texts['transformers']}"
            )
    return same


def _moved(version: Path) -> str:
    report = version / "assets.extra" / "precision_report.json"
    if not report.exists():
        return "-"
    found = {one["output"]: one for one in json.loads(report.read_text())["deviations"]}
    return f"{found['score.log_likelihood']['value']:.1e}"


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
