"""Golden pairs: requests, and what the Keras model answered when it was exported.

A version's `golden_pairs.jsonl` holds one pair a line. Whoever runs the model, on whatever server,
can send its requests and compare.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import ml_dtypes  # noqa: F401  gives numpy the name bfloat16
import numpy as np

# Floats pass if |answer - golden| <= ATOL + RTOL * |golden|: other machines sum in another order.
RTOL = 1e-4
ATOL = 1e-5
_TOLERANCE_FIELDS = ("atol", "changes")


@dataclasses.dataclass(frozen=True)
class GoldenPair:
    """One request and its answer; arrays have the batch as first axis, strings are `bytes`."""

    signature: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    # Output name -> how much further off than `ATOL` its floats may be, and how many of its strings
    # or integers may be others.
    atol: dict[str, float] = dataclasses.field(default_factory=dict)
    changes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Size of the batch."""
        return len(next(iter(self.inputs.values())))

    def part(self, begin: int, end: int) -> GoldenPair:
        """The rows from `begin` to before `end` as a request of their own."""
        inputs, outputs = (
            {name: value[begin:end] for name, value in arrays.items()}
            for arrays in (self.inputs, self.outputs)
        )
        return dataclasses.replace(self, inputs=inputs, outputs=outputs)

    def split(self) -> list[GoldenPair]:
        """Each row as a request of its own."""
        return [self.part(row, row + 1) for row in range(self.rows)]


def strings(values: list[bytes]) -> np.ndarray:
    """An array of bytes objects: numpy's own string dtype would cut trailing NULs."""
    return np.array(values, dtype=object)


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
            record |= {name: value for name in _TOLERANCE_FIELDS if (value := getattr(pair, name))}
            file.write(json.dumps(record) + "\n")


def read_golden_pairs(path: Path) -> list[GoldenPair]:
    """Reads what `write_golden_pairs` wrote; ValueError names file and line of what is damaged."""
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
                    **{name: record[name] for name in _TOLERANCE_FIELDS if name in record},
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a golden pair ({error!r})") from error
    return pairs


def differences(
    pair: GoldenPair, answer: dict[str, np.ndarray], cut_padding: bool = False
) -> list[str]:
    """What in `answer` departs from the pair: one readable line each, none if they agree.

    With `cut_padding` one may be narrower than the other where that one has padding alone, "", 0
    or -1: a row is as wide as the widest of the batch that it was in.
    """
    lines = []
    for name in sorted(set(pair.outputs) | set(answer)):
        if name not in answer or name not in pair.outputs:
            side = "missing" if name not in answer else "not expected"
            lines.append(f"{pair.signature}.{name}: output {side}")
            continue
        golden, got = pair.outputs[name], np.asarray(answer[name])
        if cut_padding and golden.ndim > 1 and got.ndim > 1:
            golden = _without_padding(golden, got.shape[1])
            got = _without_padding(got, golden.shape[1])
        if golden.shape != got.shape:
            lines.append(f"{pair.signature}.{name}: shape {got.shape}, golden {golden.shape}")
            continue
        if golden.dtype.kind == "f":
            atol = max(ATOL, pair.atol.get(name, 0))
            wrong = ~np.isclose(got, golden, rtol=RTOL, atol=atol, equal_nan=True)
        else:
            wrong = got != golden
            if np.count_nonzero(wrong) <= pair.changes.get(name, 0):
                continue
        for index in np.argwhere(wrong):
            place = tuple(int(i) for i in index)
            lines.append(
                f"{pair.signature}.{name}{list(place)}: got {got[place]!r}, "
                f"golden {golden[place]!r}, for {_texts(pair, place[0])}"
            )
    return lines


def deviation(pair: GoldenPair, answer: dict[str, np.ndarray]) -> float:
    """The largest |answer - golden| of a float, over what is tolerated there; 1 is the limit.

    For an answer without `differences`; padding that only one of them has is left out.
    """
    worst = 0.0
    for name, golden in pair.outputs.items():
        if golden.dtype.kind == "f" and golden.size:
            width = tuple(map(min, golden.shape, np.shape(answer[name])))
            part = tuple(slice(size) for size in width)
            golden, got = golden[part], np.asarray(answer[name])[part]
            atol = max(ATOL, pair.atol.get(name, 0))
            off = np.abs(got - golden) / (atol + RTOL * np.abs(golden))
            worst = max(worst, float(np.max(off, initial=0.0, where=np.isfinite(off))))
    return worst


def _without_padding(array: np.ndarray, width: int) -> np.ndarray:
    """`array` (B, W, ...) cut to (B, width, ...), unless that cuts more than padding."""
    beyond = array[:, width:]
    padding = beyond == b"" if array.dtype == object else (beyond == 0) | (beyond == -1)
    return array[:, :width] if padding.all() else array


def _texts(pair: GoldenPair, row: int) -> str:
    """The row's texts, for a message."""
    texts = {name: value[row] for name, value in pair.inputs.items() if value.dtype == object}
    return ", ".join(f"{name} {value!r:.60}" for name, value in texts.items())


def _to_json(array: np.ndarray) -> dict:
    flat, shape = array.reshape(-1), list(array.shape)
    if array.dtype != object:
        return {"dtype": array.dtype.name, "shape": shape, "values": flat.tolist()}
    return {
        "dtype": "string",
        "shape": shape,
        "b64": [base64.b64encode(value).decode("ascii") for value in flat],
        "repr": [repr(value)[:80] for value in flat],
    }


def _from_json(record: dict) -> np.ndarray:
    if record["dtype"] == "string":
        flat = strings([base64.b64decode(value) for value in record["b64"]])
    else:
        flat = np.array(record["values"], np.dtype(record["dtype"]))
    return flat.reshape(record["shape"])
