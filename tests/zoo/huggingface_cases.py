"""Tiny models of transformers, and what it answers with them: `fixtures/huggingface`."""

import json
import shutil
from pathlib import Path

import numpy as np

from zoo.weights.safetensors_files import WeightFiles, write_weights

FIXTURES = Path(__file__).parent / "fixtures" / "huggingface"
NAMES = sorted(path.parent.name for path in FIXTURES.glob("*/expected.npz"))
TASKS = {
    "model": "embed",
    "bert": "embed",
    "mlm": "mlm",
    "pretraining": "mlm",
    "classify": "classify",
    "regress": "regress",
    "tag": "tag",
    "span": "span",
    "lm": "lm",
    "untied": "lm",
}


def tokenizer_folder(model_type: str) -> Path:
    """The fixture of the tokenizer that a model type reads."""
    of_words = model_type in ("bert", "distilbert", "electra")
    return FIXTURES / ("wordpiece" if of_words else model_type)


def copy_model(name: str, folder: Path) -> Path:
    """A fixture with its tokenizer, in a folder that may be changed."""
    shutil.copytree(FIXTURES / name, folder, dirs_exist_ok=True)
    for file in tokenizer_folder(name.split("_")[0]).iterdir():
        shutil.copy(file, folder)
    return folder


def expected(name: str) -> dict[str, np.ndarray]:
    """Inputs and outputs of transformers."""
    return dict(np.load(FIXTURES / name / "expected.npz"))


def task_of(name: str) -> str:
    """The task that a fixture is loaded for."""
    suffix = name.split("_")[1]
    return "lm" if name == "gpt2_model" else TASKS[suffix]


def model_inputs(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What transformers was given, as our models take it; segments that make a difference."""
    ids = arrays["input_ids"]
    segments = np.broadcast_to(np.arange(ids.shape[1]) > 2, ids.shape).astype("int32")
    return {
        "token_ids": ids,
        "padding_mask": arrays["attention_mask"].astype(bool),
        "segment_ids": arrays.get("token_type_ids", segments),
    }


def answer(model, arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The model's output for the fixture's batch."""
    inputs = model_inputs(arrays)
    return np.asarray(model(inputs["token_ids"] if model.task == "lm" else inputs))


def change_config(folder: Path, **fields) -> None:
    """Sets fields of a config.json; `...` as a value takes one out."""
    change_json(folder / "config.json", **fields)


def change_json(path: Path, **fields) -> None:
    """Sets fields of a JSON object; `...` as a value takes one out."""
    values = {**(json.loads(path.read_text()) if path.is_file() else {}), **fields}
    values = {key: value for key, value in values.items() if value is not ...}
    path.write_text(json.dumps(values))


def change_weights(folder: Path, change) -> None:
    """Writes the weights anew: `change` gets name -> array and returns the same of what is kept."""
    weights = WeightFiles(folder)
    tensors = {name: weights.read(name) for name in weights.names()}
    write_weights(folder, change(tensors).items())
