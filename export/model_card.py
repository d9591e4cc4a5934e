"""A page about an exported version, for whoever finds its folder: what it is, how to ask it."""

from __future__ import annotations

import datetime
import importlib.metadata
import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from export import CLASSIFY_METHOD, REGRESS_METHOD
from export.golden.pairs import ATOL, RTOL, GoldenPair
from zoo.bundle import Bundle
from zoo.markdown import cell, table

CARD_FILE = Path("assets.extra") / "model_card.md"

_ABOUT = {
    "lm": "continues text, scores it and lists likely next tokens",
    "mlm": "fills masked words",
    "classify": "sorts texts into classes",
    "pair": "sorts pairs of texts into classes",
    "tag": "tags words",
    "span": "answers questions from a text",
    "embed": "turns texts into vectors",
    "regress": "rates texts with a number",
}
_LABELS_SHOWN = 20
_ROUNDED = (
    ", or as far off as `golden_pairs.jsonl` allows, because its weights are rounded: "
    "`precision_report.md` beside this page says what that does"
)
_LOOSER = {"float32": "", "bfloat16": _ROUNDED, "int8": _ROUNDED}
_INIT_OP = "__saved_model_init_op"
_REST_METHODS = {CLASSIFY_METHOD: "classify", REGRESS_METHOD: "regress"}


def write_model_card(
    bundle: Bundle,
    folder: Path,
    name: str,
    version: int,
    pairs: list[GoldenPair],
    precision: str,
    serving_version: str,
) -> None:
    """Writes `assets.extra/model_card.md` of a SavedModel.

    Args:
        bundle: what was exported; its `metrics.jsonl` and `train_config.json` are read if there.
        folder: the SavedModel, complete but for this page.
        name: of the model's folder. version: of the export.
        pairs: its golden pairs.
        precision: "float32", "bfloat16" or "int8", of the large weights.
        serving_version: the TensorFlow Serving release whose operations it was checked against.

    Example:
        write_model_card(
            bundle, Path("served/topics/1"), "topics", 1, pairs, "float32", "2.19.1"
        )
    """
    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    signatures = {k: v for k, v in graph.meta_graphs[0].signature_def.items() if k != _INIT_OP}
    config = bundle.config
    family = {"gpt": "GPT", "bert": "BERT", "lstm": "LSTM"}.get(config.family, config.family)
    sections = [
        f"# {cell(name)}, version {version}",
        f"A {family} of {config.parameters:,} parameters that {_ABOUT[config.task]}. Text in and "
        "answers out: the tokenizer is part of the graph.",
        _facts(bundle, folder, precision),
        "## What it can be asked",
        _signature_table(signatures),
        _advice(config.task),
        "## Ask it",
        _examples(name, config.task, signatures["serving_default"]),
        "## What was checked",
        f"{len(pairs)} golden requests were answered by this SavedModel, in a session as "
        "TensorFlow Serving runs it, as the Keras model answers them: strings and integers "
        f"equal, floats within {ATOL:g} + {RTOL:g} of the value{_LOOSER[precision]}. All its "
        f"operations are in TensorFlow Serving {serving_version}. Check any server that runs it:",
        "```\npython -m export.verify --model_dir=FOLDER --server=HOST:PORT --model="
        + f"{name}\n```",
    ]
    text = "\n\n".join(section for section in sections if section)
    (folder / CARD_FILE).write_text(text + "\n", encoding="utf-8")


def _facts(bundle: Bundle, folder: Path, precision: str) -> str:
    config = bundle.config
    reads = config.text.max_length if config.text else bundle.model.context_length
    rows = [
        ("task, family", f"{config.task}, {config.family}"),
        ("reads at a time", f"{reads} tokens"),
        ("tokenizer", f"{config.tokenizer_kind}, {bundle.tokenizer.vocabulary_size:,} tokens, "
         f"fingerprint {config.tokenizer_fingerprint[:16]}"),
    ]  # fmt: skip
    if config.labels:
        shown = ", ".join(cell(label) for label in config.labels[:_LABELS_SHOWN])
        more = len(config.labels) - _LABELS_SHOWN
        rows.append(("labels", shown + (f" and {more} more" if more > 0 else "")))
    rows += _training(bundle.folder)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    versions = {"keras": "Keras", "tensorflow": "TensorFlow", "tensorflow-text": "TF-Text"}
    made_with = [f"{name} {importlib.metadata.version(p)}" for p, name in versions.items()]
    rows += [
        ("weights", f"{config.weights_sha256[:16]} (SHA-256)" if config.weights_sha256 else ""),
        ("large weights", precision),
        ("size", f"{size / 1e6:.1f} MB"),
        ("exported", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")),
        ("made with", ", ".join(made_with)),
    ]
    return table(["", ""], [row for row in rows if row[1]])


def _training(folder: Path) -> list[tuple[str, str]]:
    """The recipe and the scores of a bundle that a training run wrote; nothing of another's."""
    config = _json(folder / "train_config.json")
    if config is None:
        return []
    data = config["data"]
    corpora = [corpus["name"] or corpus["train"] for corpus in data["mixture"]] or [data["train"]]
    rows = [("recipe", cell(f"{config['recipe']}, data {', '.join(corpora)}"))]
    scores = _json(folder / "scores.json") or {}
    if "validation" in scores:
        kept = scores["validation"]
        rows.append(("validation", f"{_numbers(kept['scores'])} (step {kept['step']})"))
    if "model" in scores:
        split, left_out = scores["split"], scores.get("left_out", 0)
        if split != "validation" or "validation" not in scores:
            rows.append((split, _numbers(scores["model"])))
        if left_out:
            rows.append((f"left out, {split}", f"{left_out:,} questions"))
        if scores["baseline"]:
            rows.append((f"baseline, {split}", _numbers(scores["baseline"])))
    return rows


def _json(path: Path) -> dict | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _numbers(values: dict[str, float | dict]) -> str:
    """The scores in one line; those of each type of entity (a dict) are left to `report.md`."""
    numbers = {name: value for name, value in values.items() if not isinstance(value, dict)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _signature_table(signatures: dict[str, meta_graph_pb2.SignatureDef]) -> str:
    rows = []
    for name, signature in sorted(signatures.items()):
        inputs = [
            f"`{key}` {_form(info)}" + _default(signature, key)
            for key, info in sorted(signature.inputs.items())
        ]
        outputs = [f"`{key}` {_form(info)}" for key, info in sorted(signature.outputs.items())]
        api = _REST_METHODS.get(signature.method_name, "predict")
        rows.append([f"`{name}`", api, "<br>".join(inputs), "<br>".join(outputs)])
    return table(["signature", "API", "inputs", "outputs"], rows)


def _form(info: meta_graph_pb2.TensorInfo) -> str:
    sizes = ["?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim]
    return f"{tf.as_dtype(info.dtype).name} ({', '.join(['B', *sizes[1:]])})"


def _default(signature: meta_graph_pb2.SignatureDef, name: str) -> str:
    if name not in signature.defaults:
        return ""
    return f", default {_value(signature, name)}"


def _value(signature: meta_graph_pb2.SignatureDef, name: str) -> object:
    value = np.ravel(tf.make_ndarray(signature.defaults[name]))[0].item()
    return round(value, 6) if isinstance(value, float) else value


def _advice(task: str) -> str:
    if task != "lm":
        return ""
    return (
        "Options have one value for all texts, or one for each. Over gRPC those left out have "
        "their defaults; TensorFlow Serving's REST API wants all of them. On a server that "
        "batches, send each option once for each text."
    )


def _examples(name: str, task: str, default: meta_graph_pb2.SignatureDef) -> str:
    texts = {"question": "Who wrote it?", "context": "Ada Lovelace wrote it."}
    row = {}
    for key in sorted(default.inputs, key=lambda key: (key in default.defaults, key)):
        row[key] = _value(default, key) if key in default.defaults else texts.get(key, "Some text")
    if task == "mlm":
        row["text"] = "Some [MASK] text"
    flags = [
        f'--text="{value}"' if key == "text" else f'--set={key}="{value}"'
        for key, value in row.items()
        if key not in default.defaults
    ]
    body = json.dumps({"instances": [row]})
    return (
        f"```\npython -m export.server --port=8500 --rest_api_port=8501 --model_name={name} "
        f"--model_base_path=$PWD/{name}\n"
        f"python -m export.client --server=localhost:8500 --model={name} {' '.join(flags)}\n"
        f"curl -d '{body}' \\\n    http://localhost:8501/v1/models/{name}:predict\n```"
    )
