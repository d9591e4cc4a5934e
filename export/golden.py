"""Golden pairs: requests with the Keras model's own answers, stored inside the SavedModel.

`MODEL/VERSION/assets.extra/golden_pairs.jsonl` holds one pair a line. Whoever runs the model
(this machine, another one, a TensorFlow Serving of another release) can replay them and see
whether it still says what the trained model said. Strings are base64, because a prompt may be any
bytes; `repr` beside it is for people.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import numpy as np
import tensorflow as tf

from zoo.bundle import Bundle
from zoo.request_options import OPTIONS

GOLDEN_FILE = Path("assets.extra") / "golden_pairs.jsonl"

# Floats pass if |answer - golden| <= ATOL + RTOL * |golden|: other machines sum in another order.
RTOL = 1e-4
ATOL = 1e-5


@dataclasses.dataclass(frozen=True)
class GoldenPair:
    """One request and its answer; arrays have the batch as first axis.

    Attributes:
        signature: str.
        inputs, outputs: name -> numpy array; strings as dtype object holding bytes.
    """

    signature: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def make_golden_pairs(bundle: Bundle) -> list[GoldenPair]:
    """Asks the Keras model about prompts of every kind it may meet.

    Short, empty, longer than the context, several scripts, bytes that are no UTF-8; alone and in
    one batch with mixed options; greedy and sampled with a seed.
    """
    context = bundle.model.context_length
    prompts = [
        b"The ",
        b"",
        b"To be, or not to be\n" * (1 + context // 10),
        "\u6625\u7720\u4e0d\u89c9\u6653".encode(),
        b"\xff\x00 not UTF-8",
    ]
    batch = _strings(prompts)
    several = {
        "max_new_tokens": [24, 8, 16, 0, 8],
        "temperature": [0.0, 0.8, 1.0, 0.0, 1.2],
        "top_k": [0, 0, 5, 0, 0],
        "top_p": [1.0, 0.9, 1.0, 1.0, 0.5],
        "seed": [0, 1, 2, 3, 4],
    }
    options = {
        name: np.array(value, OPTIONS[name].dtype.as_numpy_dtype) for name, value in several.items()
    }
    requests = [
        ("generate", {"text": batch[:1]}),
        ("generate", {"text": batch[:1], **{name: value[2:3] for name, value in options.items()}}),
        ("generate", {"text": batch, **options}),
        ("score", {"text": batch}),
        ("next_token", {"text": batch}),
    ]
    functions = {
        "generate": bundle.lm.generate,
        "score": bundle.lm.score,
        "next_token": bundle.lm.next_token,
    }
    return [
        GoldenPair(
            signature,
            inputs,
            {name: value.numpy() for name, value in functions[signature](**inputs).items()},
        )
        for signature, inputs in requests
    ]


def write_golden_pairs(pairs: list[GoldenPair], path: Path) -> None:
    """Writes JSON lines; the folder is created."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        for pair in pairs:
            record = {
                "signature": pair.signature,
                "inputs": {name: _to_json(value) for name, value in pair.inputs.items()},
                "outputs": {name: _to_json(value) for name, value in pair.outputs.items()},
            }
            file.write(json.dumps(record) + "\n")


def read_golden_pairs(path: Path) -> list[GoldenPair]:
    """Reads what `write_golden_pairs` wrote.

    Raises:
        ValueError: missing or damaged; the message names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no golden pairs; export the model again with `python -m export`")
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            record = json.loads(line)
            pairs.append(
                GoldenPair(
                    record["signature"],
                    {name: _from_json(value) for name, value in record["inputs"].items()},
                    {name: _from_json(value) for name, value in record["outputs"].items()},
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a golden pair ({error!r})") from error
    return pairs


def differences(pair: GoldenPair, answer: dict[str, np.ndarray]) -> list[str]:
    """What in `answer` departs from the pair: one readable line each, none if they agree."""
    lines = []
    for name in sorted(set(pair.outputs) | set(answer)):
        if name not in answer or name not in pair.outputs:
            side = "missing" if name not in answer else "not expected"
            lines.append(f"{pair.signature}.{name}: output {side}")
            continue
        golden, got = pair.outputs[name], np.asarray(answer[name])
        if golden.shape != got.shape:
            lines.append(f"{pair.signature}.{name}: shape {got.shape}, golden {golden.shape}")
            continue
        if golden.dtype.kind == "f":
            wrong = ~np.isclose(got, golden, rtol=RTOL, atol=ATOL, equal_nan=True)
        else:
            wrong = got != golden
        for index in np.argwhere(wrong):
            place = tuple(int(i) for i in index)
            lines.append(
                f"{pair.signature}.{name}{list(place)}: got {got[place]!r}, "
                f"golden {golden[place]!r}, for text {pair.inputs['text'][place[0]]!r:.60}"
            )
    return lines


def _strings(values: list[bytes]) -> np.ndarray:
    return np.array(values, dtype=object)


def _to_json(array: np.ndarray) -> dict:
    dtype = tf.as_dtype(array.dtype).name if array.dtype != object else "string"
    record = {"dtype": dtype, "shape": list(array.shape)}
    if dtype == "string":
        flat = array.reshape(-1)
        record["b64"] = [base64.b64encode(value).decode("ascii") for value in flat]
        record["repr"] = [repr(value)[:80] for value in flat]
    else:
        record["values"] = array.reshape(-1).tolist()
    return record


def _from_json(record: dict) -> np.ndarray:
    if record["dtype"] == "string":
        flat = _strings([base64.b64decode(value) for value in record["b64"]])
    else:
        flat = np.array(record["values"], tf.as_dtype(record["dtype"]).as_numpy_dtype)
    return flat.reshape(record["shape"])
