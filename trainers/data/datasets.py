"""Labelled data sets known by name, which stands wherever a path may; read as published.

Files are looked for under data_dir (or ZOO_DATA), then downloaded once, with their checksum.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from trainers.data.config import SEQ2SEQ_TASKS, DataConfig
from trainers.data.conll import read_tagged
from trainers.data.examples import LabeledTexts, Questions, TaggedTexts, TextPairs
from trainers.data.labeled import read_labeled, read_questions
from trainers.data.parallel import read_pairs
from trainers.data.sources import (
    GITHUB,
    find_data_dir,
    find_published,
    find_unpublished,
    read_files,
)

Examples = LabeledTexts | TaggedTexts | Questions | TextPairs
_READERS: dict[str, Callable[..., Examples]] = {
    "classify": read_labeled,
    "tag": read_tagged,
    "span": read_questions,
}


class NamedDataset(NamedTuple):
    """A data set: what it is for, what it holds, under which licence, how to read it."""

    kind: str
    about: str
    size: int
    licence: str
    read: Callable[[str | None], Examples]


def read_examples(
    task: str, source: str, data: DataConfig, data_dir: str | None = None
) -> Examples:
    """The examples of a task on labelled data, read as `data` says: a named data set or a path."""
    if task in SEQ2SEQ_TASKS:  # its named ones may be read in either direction
        return read_pairs(source, data, data_dir)
    kind = task if task in _READERS else "classify"
    names = ", ".join(name for name, named in NAMED_DATASETS.items() if named.kind == kind)
    if named := NAMED_DATASETS.get(source):
        if named.kind != kind:
            raise ValueError(
                f"{source!r} is a data set of kind {named.kind!r}, and this task reads {kind!r}: "
                f"use one of {names}, or a path."
            )
        return named.read(find_data_dir(data_dir))
    options = (task,) if kind == "classify" else ()
    try:
        return _READERS[kind](source, data, data_dir, *options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Data sets known by name: {names}.") from error


def describe_datasets() -> str:
    """One line per data set: name, kind, number of examples, licence, and what it is."""
    width = max(map(len, NAMED_DATASETS))
    return "\n".join(
        f"{name:{width}}  {data.kind:8}  {data.size:6}  {data.licence:12}  {data.about}"
        for name, data in NAMED_DATASETS.items()
    )


def _polarity(part: str) -> Callable[[str | None], LabeledTexts]:
    """Lines of two files, one per label: every tenth tests, one fold of the published ten."""

    def read(data_dir: str | None) -> LabeledTexts:
        how = (
            "unpack sentence_polarity.zip of https://github.com/nltk/nltk_data (packages/corpora), "
            "so that DATA_DIR/sentence_polarity/rt-polarity.neg and .pos are there."
        )
        names = [f"sentence_polarity/rt-polarity.{label}" for label in ("neg", "pos")]
        files = [find_unpublished(name, data_dir, how) for name in names]
        rows = [
            (line.rstrip(), file.name[-3:], f"{file.name}:{number}")
            # NLTK's copy is UTF-8 (the first publication was Latin-1).
            for file, text in read_files(files, DataConfig(train=names[0]))
            for number, line in enumerate(text.split("\n"), start=1)
            if line.strip() and (number % 10 == 0) == (part == "test")
        ]
        texts, labels, where = map(list, zip(*rows))
        return LabeledTexts(texts, None, labels, where)

    return read


# Files read alike: name, kind, licence, folder, REPOSITORY/COMMIT/PATH on GitHub; what they hold.
_COLLECTIONS = """
banking77 | classify | CC BY 4.0 | banking77 | PolyAI-LDN/task-specific-datasets/57ec275d8078af65b7731c2a98be812d844a6d6b/banking_data | questions to a bank in 77 intents, English
csl | classify | Apache-2.0 | csl_zh | ydli-ai/CSL/0f1ac0626d584cd3c72f8be26d329eb4f967cfd0/benchmark/cls_ctg | titles of papers in 13 fields, Chinese
wnut17 | tag | CC BY 4.0 | wnut17 | leondz/emerging_entities_17/e52a2d2a71ac1a051ca2d532eef28653c5c02603 | rare entities of 6 types in posts, English
drcd | span | CC BY-SA 3.0 | drcd | DRCKnowledgeTeam/DRCD/b944790de5af02c5fbb7cd9cb1473d27d169eebf | answers in Wikipedia, Traditional Chinese
xquad_en | span | CC BY-SA 4.0 | xquad | google-deepmind/xquad/7d30520c717524000f0d9d2f9c10a069acd9d285 | answers in Wikipedia, English
xquad_zh | span | CC BY-SA 4.0 | xquad | google-deepmind/xquad/7d30520c717524000f0d9d2f9c10a069acd9d285 | the same questions, Simplified Chinese
"""  # noqa: E501
_OPTIONS: dict[str, dict[str, Any]] = {  # of `DataConfig`, where a collection needs some
    "banking77": {"label_column": "category"},
    "csl": {"text_column": 1, "label_column": 2, "header": "none"},
    "wnut17": {"scheme": "bio"},
}
# name, file, examples, sha256
_FILES = """
banking77/train train.csv 10003 b06e26ac675513959a63135f11b94ea7786ed02da65db93a5650d8838cbc664b
banking77/test test.csv 3080 d12d6e3bc4c3103966ae786dc435913c0c563dfa328f5a3646d0e62cfeeb474d
csl/train cls_ctg_train.tsv 8000 a9680e3952b4f2d2bb70792ca94c391d956607bff48ffcc182cbe152d86b67f2
csl/dev cls_ctg_dev.tsv 1000 7549de53ae2a29f1fe014b250ea53324b7dcaaca7b7ca5c10cb9f17fec769751
csl/test cls_ctg_test.tsv 1000 337cace3a8854f993dca462c9ae34e785beaccd016e11c938016c79c91ca9c83
wnut17/train wnut17train.conll 3394 731820e13f71af324c6b55a1575ec2ce59fbaa2a0806f8f0400b98d56cd6a7a5
wnut17/dev emerging.dev.conll 1009 e053b752b8155113ca66e7db08af5f2f5f43ab993694e4774f1ec5bad42312d8
wnut17/test emerging.test.annotated 1287 2aa79b764e56ec9264a1b30fdd9b70195bd00ff400b62edd8f399d5f13c178f0
drcd/dev DRCD_dev.json 3524 e236df03861ba241bd7b29628cd48b3b8e339c60137e041a4358b5320ed61928
drcd/test DRCD_test.json 3493 d9de0b4d247a8391ac8daee6c02c2c8272b75562a1e2377b50ae04ecc09a7438
xquad_en xquad.en.json 1190 e4c57d1c9143aaa1c5d265ba5987a65f4e69528d2a98f29d6e75019b10344f29
xquad_zh xquad.zh.json 1190 691d0b3359bc6b8faa8de931dfdfe21d50a65861ae348e32a0d1a0190b0c8835
"""  # noqa: E501


def _published(line: str) -> tuple[str, NamedDataset]:
    name, path, size, sha256 = line.split()
    collection = name.split("/")[0]
    rows = (row.split(" | ") for row in _COLLECTIONS.strip().split("\n"))
    kind, licence, folder, address, about = next(row[1:] for row in rows if row[0] == collection)
    # CSL's files are kept under longer names.
    url = f"{GITHUB}{address}/{path.removeprefix('cls_ctg_')}"

    def read(data_dir: str | None) -> Examples:
        file = find_published(f"{folder}/{path}", url, sha256, data_dir)
        examples = _READERS[kind](file.path, DataConfig(train=name, **_OPTIONS.get(collection, {})))
        return dataclasses.replace(examples, where=[f"{folder}/{w}" for w in examples.where])

    return name, NamedDataset(kind, about, int(size), licence, read)


NAMED_DATASETS: dict[str, NamedDataset] = {
    **dict(map(_published, _FILES.strip().split("\n"))),
    "sentence_polarity/train": NamedDataset(
        "classify", "film reviews, neg or pos, English", 9596, "CC BY 4.0", _polarity("train")
    ),
    "sentence_polarity/test": NamedDataset(
        "classify", "every tenth line of the same", 1066, "CC BY 4.0", _polarity("test")
    ),
}
