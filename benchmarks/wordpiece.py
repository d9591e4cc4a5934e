"""How fast is BERT's tokenizer in the graph, and is it exact?

About 1 MB of English, Spanish and Chinese lines goes through our WordPieceTokenizer (ids alone,
then with offsets; all lines in one batch, and in batches of 1024), through Hugging Face's
BertWordPieceTokenizer and through tensorflow_text's FastBertTokenizer. The numbers are megabytes
of UTF-8 a second of CPU time; the last two columns are the share of lines with other ids than
Hugging Face's. Set ZOO_DATA to the folder with the data sets; without it the Python standard
library's source is the text, with a vocabulary learned from it.
"""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

from benchmarks.measure import interleaved, pin
from benchmarks.table import Table

CORPORA = {
    "English (wikitext2)": ("wikitext2/valid.txt", "tok_bert_base_uncased"),
    "English (tinyshakespeare)": ("tinyshakespeare/input.txt", "tok_bert_base_uncased"),
    "Spanish and English (tatoeba)": ("tatoeba_spa_eng/spa.txt", "tok_bert_base_uncased"),
    "Chinese (poems)": ("chinese_poetry/poems.tsv", "tok_bert_base_chinese"),
    "Chinese (csl)": ("csl_zh/cls_ctg_train.tsv", "tok_bert_base_chinese"),
}
BYTES = 1_200_000
BATCH = 1024
DIFFERENT = ("lines ours differs", "lines tensorflow_text differs")


def main() -> None:
    """Prints the table."""
    pin(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # Else it starts a thread for each core.
    table = Table(
        "wordpiece",
        4,
        "WordPiece encode",
        peers=("tokenizers", "tensorflow_text"),
        extra=("ours with offsets", *DIFFERENT),
        packages=("tokenizers", "tensorflow-text"),
    )
    for name, lines, tokenizer in _corpora():
        _measure(table, name, lines, tokenizer)
    table.close("One pinned thread, medians of 5")


def _corpora():
    from zoo.tokenizers import WordPieceTokenizer

    folder = os.environ.get("ZOO_DATA")
    if folder:
        for name, (path, vocabulary) in CORPORA.items():
            lines = _lines(Path(folder, path).read_bytes()[:BYTES])
            yield name, lines, WordPieceTokenizer.from_file(Path(folder, vocabulary, "vocab.txt"))
        return
    library = Path(sysconfig.get_paths()["stdlib"])
    source = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    lines = _lines(source[:BYTES])
    yield "Python source", lines, WordPieceTokenizer.train(lines, 8000)


def _lines(text: bytes) -> list[str]:
    return text.decode("utf-8", "ignore").split("\n")


def _measure(table: Table, name: str, lines: list[str], tokenizer) -> None:
    import tensorflow as tf
    import tensorflow_text as tf_text
    from tokenizers import BertWordPieceTokenizer

    signature = [tf.TensorSpec([None], tf.string)]
    encode = tf.function(tokenizer.encode, input_signature=signature)
    with_offsets = tf.function(tokenizer.encode_with_offsets, input_signature=signature)
    ids = {piece: index for index, piece in enumerate(tokenizer.vocabulary)}
    theirs = BertWordPieceTokenizer(ids)
    fast_bert = tf_text.FastBertTokenizer(
        tokenizer.vocabulary, token_out_type=tf.int32, lower_case_nfd_strip_accents=True
    )
    fast = tf.function(lambda texts: fast_bert.tokenize(texts), input_signature=signature)
    texts = tf.constant(lines)
    batches = [texts[i : i + BATCH] for i in range(0, len(lines), BATCH)]

    def in_batches():
        for batch in batches:
            encode(batch)

    timings = interleaved(
        {
            "ours": lambda: encode(texts),
            "batches": in_batches,
            "offsets": lambda: with_offsets(texts),
            "tokenizers": lambda: theirs.encode_batch(lines, add_special_tokens=False),
            "tensorflow_text": lambda: fast(texts),
        }
    )
    megabytes = sum(len(line.encode()) for line in lines) / 1e6
    expected = [line.ids for line in theirs.encode_batch(lines, add_special_tokens=False)]
    different = [
        sum(ours != other for ours, other in zip(found.to_list(), expected)) / len(lines)
        for found in (encode(texts), fast(texts))
    ]
    rate = {way: megabytes / timing.cpu for way, timing in timings.items()}
    extra = {"ours with offsets": f"{rate['offsets']:.1f}"}
    extra |= {column: f"{share:.2%}" for column, share in zip(DIFFERENT, different)}
    for way, case in {"ours": name, "batches": f"{name}, batches of {BATCH} lines"}.items():
        table.add(
            case,
            rate[way],
            {peer: rate[peer] for peer in ("tokenizers", "tensorflow_text")},
            unit="MB/CPU-s",
            better="more",
            goal=">= 25",
            extra=extra,
            timings=timings,
        )
