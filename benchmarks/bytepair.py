"""How fast is GPT-2's tokenizer in the graph, and is it exact?

About 1 MB of English, Spanish and Chinese lines goes through our BytePairTokenizer (all lines in
one batch, in batches of 1024, and with offsets), through tiktoken, Hugging Face's `tokenizers` and
KerasHub's BytePairTokenizer (which keeps the words that it has seen, so all of them). The numbers
are megabytes of UTF-8 a second of CPU time; the last columns are the share of lines with other ids
than tiktoken's. Set ZOO_DATA to the folder with the data sets; without it the Python
standard library's source is the text, with merges learned from it.
"""

from __future__ import annotations

import os
import sysconfig
import tempfile
from pathlib import Path

from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

CORPORA = {
    "English (wikitext2)": "wikitext2/valid.txt",
    "English (tinyshakespeare)": "tinyshakespeare/input.txt",
    "Spanish and English (tatoeba)": "tatoeba_spa_eng/spa.txt",
    "Chinese (poems)": "chinese_poetry/poems.tsv",
    "JSON lines (scitldr)": "scitldr/dev.jsonl",
}
PATTERN = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BYTES = 1_100_000
BATCH = 1024
# KerasHub merges in a loop of graph operations: less text is enough to see how fast it is.
KERAS_HUB_LINES = 1024
DIFFERENT = ("lines ours differs", "lines tokenizers differs", "lines keras-hub differs")


def main() -> None:
    """Prints the table."""
    pin(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Else it starts a thread for each core.
    table = Table(
        "bytepair",
        5,
        "GPT-2 BPE encode",
        peers=("tiktoken", "tokenizers", "keras-hub"),
        extra=("ours with offsets", *DIFFERENT),
        packages=("tensorflow-text", "tiktoken", "tokenizers", "keras-hub"),
    )
    for name, lines, tokenizer in _corpora():
        _measure(table, name, lines, tokenizer)
    table.close(f"keras-hub: {KERAS_HUB_LINES} lines; one pinned thread, medians of 5")


def _corpora():
    from zoo.tokenizers import BytePairTokenizer

    folder = os.environ.get("ZOO_DATA")
    if folder:
        files = [Path(folder, "tok_gpt2", name) for name in ("encoder.json", "vocab.bpe")]
        tokenizer = BytePairTokenizer.from_files(*files)
        for name, path in CORPORA.items():
            yield name, _lines(Path(folder, path).read_bytes()[:BYTES]), tokenizer
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    lines = _lines(source[:BYTES])
    yield "Python source", lines, BytePairTokenizer.train(lines, 8000)


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "ignore").split("\n")


def _measure(table: Table, name: str, lines: list[str], tokenizer) -> None:
    import tensorflow as tf
    import tiktoken
    from keras_hub.tokenizers import BytePairTokenizer as KerasHubTokenizer
    from tokenizers import ByteLevelBPETokenizer

    signature = [tf.TensorSpec([None], tf.string)]
    encode = tf.function(tokenizer.encode, input_signature=signature)
    with_offsets = tf.function(tokenizer.encode_with_offsets, input_signature=signature)
    pieces = tokenizer.pieces()
    special = set(tokenizer.special_tokens.values())
    tik = tiktoken.Encoding(
        "compared",
        pat_str=PATTERN,
        mergeable_ranks={p: i for i, p in enumerate(pieces) if i not in special},
        special_tokens=tokenizer.special_tokens,
    )
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.write_files(folder)
        files = [f"{folder}/vocab.json", f"{folder}/merges.txt"]
        theirs = ByteLevelBPETokenizer(*files)
        hub = tf.function(KerasHubTokenizer(*files).tokenize, input_signature=signature)
    texts = tf.constant(lines)
    batches = [texts[i : i + BATCH] for i in range(0, len(lines), BATCH)]
    few = texts[:KERAS_HUB_LINES]

    def in_batches():
        for batch in batches:
            encode(batch)

    timings = interleaved(
        {
            "ours": lambda: encode(texts),
            "batches": in_batches,
            "offsets": lambda: with_offsets(texts),
            "tiktoken": lambda: [tik.encode_ordinary(line) for line in lines],
            "tokenizers": lambda: theirs.encode_batch(lines, add_special_tokens=False),
            "keras-hub": lambda: hub(few),
        }
    )
    expected = [tik.encode_ordinary(line) for line in lines]
    found = {
        "ours": encode(texts).to_list(),
        "tokenizers": [line.ids for line in theirs.encode_batch(lines)],
        "keras-hub": hub(few).to_list(),
    }
    size = dict.fromkeys(timings, _megabytes(lines))
    size["keras-hub"] = _megabytes(lines[:KERAS_HUB_LINES])
    different = [
        sum(ids != other for ids, other in zip(rows, expected)) / len(rows)
        for rows in found.values()
    ]
    rate = {way: size[way] / timing.cpu for way, timing in timings.items()}
    extra = {"ours with offsets": f"{rate['offsets']:.2f}"}
    extra |= {column: f"{share:.2%}" for column, share in zip(DIFFERENT, different)}
    for way, case in {"ours": name, "batches": f"{name}, batches of {BATCH} lines"}.items():
        table.add(
            case,
            rate[way],
            {peer: rate[peer] for peer in ("tiktoken", "tokenizers", "keras-hub")},
            unit="MB/CPU-s",
            better="more",
            goal=">= 5",
            extra=extra,
            timings=timings,
        )


def _megabytes(lines: list[str]) -> float:
    return sum(len(line.encode()) for line in lines) / 1e6
