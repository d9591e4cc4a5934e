"""minGPT models as they are published for web pages: one JSON file, its tensors in base64."""

import base64
import json
from pathlib import Path

import numpy as np
import safetensors.numpy


def read_tensors(path: Path) -> tuple[dict, dict[str, np.ndarray]]:
    """Config and tensors of a file, float32."""
    content = json.loads(path.read_text(encoding="utf-8"))
    config = content.pop("config", {})
    return config, {
        name: np.frombuffer(base64.b64decode(tensor["data"]), "<f4").reshape(tensor["shape"])
        for name, tensor in content.items()
    }


def to_safetensors(path: Path, folder: Path) -> Path:
    """The same model as `zoo.weights.nanogpt` reads it; give it activation="gelu_tanh"."""
    config, tensors = read_tensors(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    return folder
