"""BERT-base over one text of 128 tokens: our SavedModel against what else runs a BERT on a CPU.

One classifier with random weights, written once in Hugging Face's layout, is given to all. Ours is
exported from that folder (`python -m export`, with each `--precision`) and asked through a session,
as TensorFlow Serving does: from the raw text to label and scores, tokenizer included. The peers get
the token ids ready: transformers in torch, float32 and bfloat16; ONNX Runtime with the graph as
torch exports it, and after onnxruntime's own BERT optimizer ("fused"); keras-hub's classifier,
exported as a SavedModel. Before anything is timed, all outputs are compared: log probabilities
within 1e-4 of what transformers said when it wrote the weights; keras-hub's within 2e-2, because
its GELU is always the tanh approximation; the reduced precisions' deviations stand in the table.
CPU-milliseconds of one pinned thread. BERT_FOLDER names a folder where the models stay for a next
run (3 GB); BERT_RUNS sets the runs, 15 by default.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import bert_peers
from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

RUNS = int(os.environ.get("BERT_RUNS", "15"))
PRECISIONS = ("float32", "bfloat16", "int8")
# Peers that do what the precision does; int8 weights, floating-point products: nobody.
COMPARED = {
    "float32": ("torch", "ONNX Runtime", "ONNX Runtime fused", "keras-hub"),
    "bfloat16": ("torch bfloat16",),
    "int8": (),
}
GOALS = {"float32": ">= 1x", "bfloat16": ">= 1x", "int8": None}
PACKAGES = ("torch", "transformers", "onnxruntime", "keras-hub")


def main() -> None:
    """Prints the table."""
    pin(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        folder = Path(os.environ.get("BERT_FOLDER") or name)
        prepare(folder)
        _measure(folder)


def prepare(folder: Path) -> None:
    """Writes what is missing of the weights and the models made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "logits.npy").exists():
        bert_peers.write("hugging_face", folder)
    for kind, made in {"onnx": "fused.onnx", "keras_hub": "keras_hub/1/saved_model.pb"}.items():
        if not (folder / made).exists():
            bert_peers.write(kind, folder)
    for precision in PRECISIONS:
        if not (folder / precision / "1").exists():
            export(folder, precision)


def export(folder: Path, precision: str) -> None:
    """`folder/PRECISION/1`, by the command that users run."""
    command = [sys.executable, "-m", "export", f"--workdir={folder / 'hf'}"]
    command += [f"--out={folder / precision}", "--version=1", f"--precision={precision}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def ours(folder: Path, precision: str) -> bert_peers.Forward:
    """Our SavedModel: the text to log probabilities (1, CLASSES)."""
    from export.server.run.servable import Servable

    servable = Servable(precision, 1, str(folder / precision / "1"))
    definition = servable.signatures["predict"]
    feeds = {definition.inputs["text"].name: np.array([bert_peers.make_text()], object)}
    names = sorted(definition.outputs)
    fetches = [definition.outputs[name].name for name in names]
    return lambda: np.log(servable.run(feeds, fetches)[names.index("scores")])


def _measure(folder: Path) -> None:
    import torch

    torch.set_num_threads(1)
    settings = {precision: ours(folder, precision) for precision in PRECISIONS}
    settings |= {
        "torch": bert_peers.torch_forward(folder),
        "torch bfloat16": bert_peers.torch_forward(folder, "bfloat16"),
        "ONNX Runtime": bert_peers.onnx_forward(folder, "plain"),
        "ONNX Runtime fused": bert_peers.onnx_forward(folder, "fused"),
        "keras-hub": bert_peers.keras_hub_forward(folder),
    }
    deviations = _deviations(folder, settings)
    timings = interleaved(settings, RUNS)
    peers = [name for names in COMPARED.values() for name in names]
    table = Table(
        "bert_forward",
        8,
        "BERT-base forward, 1 x 128",
        peers,
        ("wall ms", "SavedModel MB", "deviation"),
        PACKAGES,
    )
    for precision in PRECISIONS:
        table.add(
            precision,
            1000 * timings[precision].cpu,
            {name: 1000 * timings[name].cpu for name in COMPARED[precision]},
            unit="CPU-ms",
            goal=GOALS[precision],
            extra={
                "wall ms": f"{1000 * timings[precision].wall:.1f}",
                "SavedModel MB": f"{_megabytes(folder / precision / '1'):.0f}",
                "deviation": f"{deviations[precision]:.1e}",
            },
            timings=timings,
        )
    told = ", ".join(f"{name} {deviations[name]:.0e}" for name in peers)
    table.close(
        f"One pinned thread, medians of {RUNS}; ours from the raw text, peers from token ids; "
        f"largest difference of a log probability to transformers: {told}"
    )


def _deviations(folder: Path, settings: dict[str, bert_peers.Forward]) -> dict[str, float]:
    """Largest difference of a log probability to transformers' own; raises where one is wrong."""
    expected = _log_softmax(np.load(folder / "logits.npy"))
    found = {
        name: float(np.abs(_log_softmax(forward()) - expected).max())
        for name, forward in settings.items()
    }
    exact = dict.fromkeys(("float32", *COMPARED["float32"]), 1e-4)
    for name, tolerance in (exact | {"keras-hub": bert_peers.KERAS_HUB_TOLERANCE}).items():
        if found[name] > tolerance:
            raise AssertionError(f"{name} answers otherwise: {found[name]:.1e} from transformers")
    return found


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
