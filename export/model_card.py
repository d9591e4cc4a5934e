"""A page about an exported version: what it is, how to send requests."""

import datetime
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from tensorflow.core.protobuf import meta_graph_pb2

from export import DEFAULT_SIGNATURE, INIT_OP
from export.golden.compare import ATOL, RTOL
from export.model_folder import CARD_FILE, read_saved_model, size_of
from zoo.bundle import Bundle
from zoo.output import cell, table
from zoo.text.chat_form import MESSAGES

_TEMPLATE = Path(__file__).with_name("model_card_template.md")
_LM_ADVICE = """\
Options have one value for all texts, or one for each. Over gRPC those left out have their \
defaults; TensorFlow Serving's REST API wants all of them. On a server that batches, send each \
option once for each text, and `stop` with as many strings as its default, the others "".

"""
_CHAT_ADVICE = """\
`chat` answers conversations: `role` and `content` have a place for each message, "" in both where \
there is none. A server batches those of {messages} places. In a terminal: `python -m \
export.client --server=localhost:8500 --model={name} --chat`.

"""
_ROUNDING = (
    ", or as far off as `golden_pairs.jsonl` allows, because its weights are rounded: "
    "`precision_report.md` beside this page says what that does"
)
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
_SAMPLES = {"question": "Who wrote it?", "context": "Ada Lovelace wrote it."}
_LABELS_SHOWN = 20
_SHOWN_STRINGS = 4
_LIBRARIES = {"keras": "Keras", "tensorflow": "TensorFlow", "tensorflow-text": "TF-Text"}


def write_model_card(
    bundle: Bundle, folder: Path, target: Path, requests: int, precision: str, serving_version: str
) -> None:
    """Writes the card of a SavedModel that lies in `folder` and will lie in `target`."""
    signatures = dict(read_saved_model(folder).meta_graphs[0].signature_def)
    signatures.pop(INIT_OP, None)
    config, name, default = bundle.config, target.parent.name, signatures[DEFAULT_SIGNATURE]
    # A row of inputs, and the flags that say the same to the client.
    row = {
        key: _SAMPLES.get(key, "Some [MASK] text" if config.task == "mlm" else "Some text")
        for key in sorted({*default.inputs} - {*default.defaults})
    }
    flags = (f'--{"text" if key == "text" else f"set={key}"}="{row[key]}"' for key in row)
    page = _TEMPLATE.read_text(encoding="utf-8").format(
        title=cell(name),
        version=target.name,
        family=config.family.upper(),
        parameters=config.parameters,
        about=_ABOUT.get(config.task, f"does the task {config.task}"),
        facts=table(["", ""], [row for row in _facts(bundle, folder, precision) if row[1]]),
        signatures=table(
            ["signature", "API", "inputs", "outputs"],
            [_signature_row(key, signatures[key]) for key in sorted(signatures)],
        ),
        advice=(_LM_ADVICE if config.task == "lm" else "")
        + (_CHAT_ADVICE.format(name=name, messages=MESSAGES) if config.chat else ""),
        name=name,
        flags=" ".join(flags),
        body=json.dumps(
            {"instances": [row | {key: _default(default, key) for key in sorted(default.defaults)}]}
        ),
        requests=requests,
        atol=ATOL,
        rtol=RTOL,
        rounding="" if precision == "float32" else _ROUNDING,
        serving_version=serving_version,
    )
    (folder / CARD_FILE).write_text(page, encoding="utf-8")


def _facts(bundle: Bundle, folder: Path, precision: str) -> Iterator[tuple[str, str]]:
    config = bundle.config
    reads = config.text.max_length if config.text else bundle.model.context_length
    yield "task, family", f"{config.task}, {config.family}"
    yield "reads at a time", f"{reads} tokens"
    yield (
        "tokenizer",
        f"{config.tokenizer_kind}, {bundle.tokenizer.vocabulary_size:,} tokens, "
        f"fingerprint {config.tokenizer_fingerprint[:16]}",
    )
    shown = ", ".join(cell(label) for label in config.labels[:_LABELS_SHOWN])
    more = len(config.labels) - _LABELS_SHOWN
    yield "labels", shown + (f" and {more} more" if more > 0 else "")
    yield from _training(bundle.folder)
    yield "weights", f"{config.weights_sha256[:16]} (SHA-256)" if config.weights_sha256 else ""
    yield "large weights", precision
    yield "size", f"{size_of(folder) / 1e6:.1f} MB"
    yield "exported", datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    made_with = [f"{name} {importlib.metadata.version(key)}" for key, name in _LIBRARIES.items()]
    yield "made with", ", ".join(made_with)


def _training(folder: Path) -> Iterator[tuple[str, str]]:
    """The recipe and the scores of a bundle that a training run wrote; nothing of another's."""
    files = (folder / "train_config.json", folder / "scores.json")
    config, scores = (
        json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {} for path in files
    )
    if not config:
        return
    data = config["data"]
    corpora = [corpus["name"] or corpus["train"] for corpus in data["mixture"]] or [data["train"]]
    yield "recipe", cell(f"{config['recipe']}, data {', '.join(corpora)}")
    if "validation" in scores:
        kept = scores["validation"]
        yield "validation", f"{_numbers(kept['scores'])} (step {kept['step']})"
    if "model" in scores:
        split, left_out = scores["split"], scores.get("left_out", 0)
        if split != "validation" or "validation" not in scores:
            yield split, _numbers(scores["model"])
        if left_out:
            yield f"left out, {split}", f"{left_out:,} questions"
        if scores["baseline"]:
            yield f"baseline, {split}", _numbers(scores["baseline"])


def _numbers(values: dict[str, float | dict]) -> str:
    """The scores in one line; those of each type of entity (a dict) are left to `report.md`."""
    numbers = {name: value for name, value in values.items() if not isinstance(value, dict)}
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _signature_row(name: str, signature: meta_graph_pb2.SignatureDef) -> list[str]:
    columns = []
    for tensors in (signature.inputs, signature.outputs):
        lines = []
        for key, info in sorted(tensors.items()):
            sizes = ["?" if dim.size < 0 else str(dim.size) for dim in info.tensor_shape.dim]
            line = f"`{key}` {tf.as_dtype(info.dtype).name} ({', '.join(['B', *sizes[1:]])})"
            if tensors is signature.inputs and key in signature.defaults:
                value = _default(signature, key)
                filled = isinstance(value, list) and len(value) > _SHOWN_STRINGS
                line += f", default {json.dumps(value[:1] if filled else value)}"
                line += f" and {len(value) - 1} more" if filled else ""
            lines.append(line)
        columns.append("<br>".join(lines))
    return [f"`{name}`", signature.method_name.rpartition("/")[2], *columns]  # predict, ...


def _default(signature: meta_graph_pb2.SignatureDef, name: str) -> object:
    """The default of one text, as JSON has it."""
    value = tf.make_ndarray(signature.defaults[name]).tolist()[0]
    if isinstance(value, list):
        return [item.decode() for item in value]
    if isinstance(value, bytes):
        return value.decode()
    return round(value, 6) if isinstance(value, float) else value
