"""BERT-base with the same random weights for everyone: the files, and how each peer is asked.

`python -m benchmarks.bert_peers KIND FOLDER` writes one of `WRITERS` into a folder, in a process of
its own that gives its memory back.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

LENGTH = 128
CLASSES = 8
# keras-hub's BERT always computes GELU by its approximation with tanh, BERT itself with erf.
KERAS_HUB_TOLERANCE = 2e-2

Forward = Callable[[], np.ndarray]


def write(kind: str, folder: Path) -> None:
    """Runs one of `WRITERS` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.bert_peers", kind, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def make_text() -> str:
    """A text of LENGTH tokens, [CLS] and [SEP] included."""
    words = vocabulary()[-30_000:]
    chosen = np.random.default_rng(1).integers(len(words), size=LENGTH - 2)
    return " ".join(words[place] for place in chosen)


def vocabulary() -> list[str]:
    """As many pieces as BERT has, made-up words most of them."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*special, *letters, *(f"##{letter}" for letter in letters)]
    syllables = [first + second for first in "bdfgklmnprst" for second in "aeiou"]
    words = (a + b + c for a in syllables for b in syllables for c in syllables)
    return pieces + [next(words) for _ in range(30_522 - len(pieces))]


def token_ids() -> np.ndarray:
    """The ids (1, LENGTH) of `make_text`, counted in the vocabulary."""
    ids = {piece: index for index, piece in enumerate(vocabulary())}
    words = ["[CLS]", *make_text().split(), "[SEP]"]
    return np.array([[ids[word] for word in words]], "int64")


def write_hugging_face(folder: Path) -> None:
    """BERT-base of a classifier in Hugging Face's layout, `folder/hf`; what it answers beside it.

    transformers' initial values (its `BertConfig` as it stands), plus noise on biases and norms,
    which begin at 0 and 1, so that a peer that forgot them would be noticed.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(num_labels=CLASSES)
    model = transformers.BertForSequenceClassification(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.classifier.weight.mul_(10)  # logits some units apart, as of a trained model
    target = folder / "hf"
    model.save_pretrained(target)
    (target / "vocab.txt").write_text("\n".join(vocabulary()) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True}
    (target / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with torch.inference_mode():
        logits = model(torch.from_numpy(token_ids())).logits
    np.save(folder / "logits.npy", logits.numpy())


def write_onnx(folder: Path) -> None:
    """`folder/plain.onnx` by torch's exporter, and `fused.onnx` by onnxruntime's BERT optimizer."""
    import torch
    from onnxruntime.transformers import optimizer

    model = _torch_model(folder)
    ids = torch.from_numpy(token_ids())
    torch.onnx.export(
        model,
        (ids, torch.ones_like(ids)),
        folder / "plain.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")},
        dynamo=False,
    )
    fused = optimizer.optimize_model(
        str(folder / "plain.onnx"), model_type="bert", num_heads=12, hidden_size=768
    )
    fused.save_model_to_file(str(folder / "fused.onnx"))


def write_keras_hub(folder: Path) -> None:
    """`folder/keras_hub/1`, the SavedModel of keras-hub's classifier."""
    import keras_hub

    from zoo.weights.safetensors_files import WeightFiles

    backbone = keras_hub.models.BertBackbone.from_preset(str(folder / "hf"))
    model = keras_hub.models.BertTextClassifier(backbone, num_classes=CLASSES, dropout=0.0)
    weights = WeightFiles(folder / "hf")
    kernel, bias = (weights.read(f"classifier.{name}") for name in ("weight", "bias"))
    model.get_layer("logits").set_weights([kernel.T, bias])
    model.export(str(folder / "keras_hub" / "1"), format="tf_saved_model", verbose=False)


WRITERS = {"hugging_face": write_hugging_face, "onnx": write_onnx, "keras_hub": write_keras_hub}


def _torch_model(folder: Path):
    import transformers

    model = transformers.BertForSequenceClassification.from_pretrained(folder / "hf")
    return model.eval()


def torch_forward(folder: Path, dtype: str = "float32") -> Forward:
    """transformers' model, eager, with its scaled-dot-product attention."""
    import torch

    model = _torch_model(folder).to(getattr(torch, dtype))
    ids = torch.from_numpy(token_ids())
    mask = torch.ones_like(ids)

    def forward() -> np.ndarray:
        with torch.inference_mode():
            return model(ids, attention_mask=mask).logits.float().numpy()

    return forward


def onnx_forward(folder: Path, name: str) -> Forward:
    """`folder/NAME.onnx` in ONNX Runtime, all its optimizations on."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
    )
    ids = token_ids()
    feeds = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return lambda: session.run(["logits"], feeds)[0]


def keras_hub_forward(folder: Path) -> Forward:
    """keras-hub's SavedModel, through the same kind of session as ours."""
    from export.server.run.servable import Servable

    servable = Servable("keras_hub", 1, str(folder / "keras_hub" / "1"))
    definition = servable.signatures["serving_default"]
    ids = token_ids().astype("int32")
    values = {"token_ids": ids, "padding_mask": ids != 0, "segment_ids": ids * 0}
    feeds = {}
    for name, info in definition.inputs.items():
        dtype = servable.input_dtype(info.name)
        feeds[info.name] = values[name].astype(_numpy_dtype(dtype))
    (output,) = definition.outputs.values()
    return lambda: servable.run(feeds, [output.name])[0]


def _numpy_dtype(number: int):
    import tensorflow as tf

    return tf.dtypes.as_dtype(number).as_numpy_dtype


if __name__ == "__main__":
    WRITERS[sys.argv[1]](Path(sys.argv[2]))
