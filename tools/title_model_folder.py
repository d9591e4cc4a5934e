"""Makes a folder of transformers of the FLAN-T5-small in the package traceforge-title-model.

Its files are in int8 for ONNX Runtime; the weights times their scales are a T5 in float32. Needs
the packages onnx and traceforge-title-model.

    python -m tools.title_model_folder --out=titler
"""

import json
from pathlib import Path

import numpy as np
import onnx
from absl import app, flags

from zoo.weights.safetensors_files import write_weights

_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
LAYERS = 8
CONFIG = {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "is_encoder_decoder": True,
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 1024,
    "num_layers": LAYERS,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "decoder_start_token_id": 0,
}


def read_onnx(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file, those in int8 times their scales."""
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor)
        for tensor in onnx.load(path).graph.initializer
    }
    found = {}
    for name, value in stored.items():
        base = name.removesuffix("_quantized")
        if base != name:
            zero = stored[f"{base}_zero_point"].astype("float32")
            found[base] = (value.astype("float32") - zero) * stored[f"{base}_scale"]
        elif not name.endswith(("_scale", "_zero_point")):
            found[name] = value
    return found


def tensors_of(folder: Path) -> dict[str, np.ndarray]:
    """As transformers names them: matrices without a name are in the order of the layers."""
    tensors = {}
    for side, prefix in (("encoder", "enc."), ("decoder", "m.decoder.")):
        stored = read_onnx(folder / f"{side}.onnx")
        matrices = sorted(
            (name for name in stored if name.startswith("onnx::MatMul_")),
            key=lambda name: int(name.rpartition("_")[2]),
        )
        names = []
        for layer in range(LAYERS):
            sublayers = ["SelfAttention.{}", *["EncDecAttention.{}"] * (side == "decoder")]
            names += [
                f"{side}.block.{layer}.layer.{i}.{part.format(matrix)}.weight"
                for i, part in enumerate([*sublayers, "DenseReluDense.{}"])
                for matrix in ("qkvo" if "Attention" in part else ("wi_0", "wi_1", "wo"))
            ]
        names += ["lm_head.weight"] * (side == "decoder")
        assert len(names) == len(matrices)
        tensors |= {name: stored[matrix].T for name, matrix in zip(names, matrices)}
        tensors |= {
            f"{side}.{name.removeprefix(prefix)}": value
            for name, value in stored.items()
            if name.startswith(prefix) and "embed_tokens" not in name
        }
    return tensors | {"shared.weight": stored["m.shared.weight"]}


def write_folder(package: Path, folder: Path) -> Path:
    """Writes weights, configuration and tokenizer; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, tensors_of(package).items())
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_bytes((package / "tokenizer.json").read_bytes())
    return folder


def main(_) -> None:
    import traceforge_title_model

    print(write_folder(Path(traceforge_title_model.span_dir()), Path(_OUT.value)))


if __name__ == "__main__":
    app.run(main)
