"""Golden pairs: requests, and what the Keras model answered; one a line of `golden_pairs.jsonl`."""

import base64
import dataclasses
import json
from pathlib import Path

import ml_dtypes  # noqa: F401  gives numpy the name bfloat16
import numpy as np

_TOLERANCE_FIELDS = ("atol", "changes")


@dataclasses.dataclass(frozen=True)
class GoldenPair:
    """One request and its answer; arrays have the batch as first axis, strings are `bytes`."""

    signature: str
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]
    # Output name -> how much further off than usual its floats may be, and how many of its strings
    # or integers may be others.
    atol: dict[str, float] = dataclasses.field(default_factory=dict)
    changes: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        return len(next(iter(self.inputs.values())))

    def part(self, begin: int, end: int) -> "GoldenPair":
        inputs, outputs = (
            {name: value[begin:end] for name, value in arrays.items()}
            for arrays in (self.inputs, self.outputs)
        )
        return dataclasses.replace(self, inputs=inputs, outputs=outputs)

    def split(self) -> "list[GoldenPair]":
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
            inputs, outputs = (
                {name: _from_json(value) for name, value in record[key].items()}
                for key in ("inputs", "outputs")
            )
            tolerances = {name: record[name] for name in _TOLERANCE_FIELDS if name in record}
            pairs.append(GoldenPair(record["signature"], inputs, outputs, **tolerances))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}:{number}: not a golden pair ({error!r})") from error
    return pairs


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
